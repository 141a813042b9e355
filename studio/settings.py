"""Settings of one studio: its home and its behaviour. Passed as an argument, never global.

Every field can be set by an environment variable. docs/settings.md lists them with the descriptions below; a test
keeps the two in sync. Tests create their own: `Settings(home=tmp_path)`.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from platformdirs import user_data_path
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from studio.errors import BadInput

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PREFIX = "STUDIO_"


def default_home() -> Path:
    """The platform's user-data directory for LoRA Studio."""
    return user_data_path("lora-studio", appauthor=False)


class Settings(BaseSettings):
    """Settings of a studio process, immutable. `Settings(…)` does not read the environment; `Settings.from_env()` does.

    `model_copy(update={…})` makes a copy with other values, which it does not validate.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False)

    home: Path = Field(
        default_factory=default_home,
        description="folder of runs, datasets, models, adapters, exports and the database (`--home`)",
    )
    host: str = Field("127.0.0.1", description="address on which the studio listens (`--host`)")
    port: int = Field(7860, ge=0, le=65535, description="port on which it listens (`--port`)")
    hosts: str = Field(
        "",
        description=(
            "additional host names it answers to, separated by commas: those of a reverse proxy, whose "
            "forwarded headers are then trusted"
        ),
    )
    requests_per_second: NonNegativeFloat = Field(
        200.0,
        description=(
            "maximum sustained requests per second from one client; ten seconds' worth may arrive at once; "
            "0 for no limit"
        ),
    )
    keeper_interval: PositiveFloat = Field(
        1.0, description="seconds between the keeper's checks of the run directories"
    )
    stop_grace: NonNegativeFloat = Field(
        60.0, description="seconds a worker has to stop by itself before it is signalled"
    )
    stalled_after: NonNegativeFloat = Field(
        300.0, description="seconds without progress after which a live worker is shown as stalled"
    )
    chat_idle: NonNegativeFloat = Field(
        900.0, description="seconds after which an unused chat worker is ended to free its memory"
    )
    warm_seconds: NonNegativeFloat = Field(
        600.0, description="seconds for which a training worker is kept ready after the form was used; 0 for none"
    )
    max_file_mb: NonNegativeInt = Field(512, description="maximum size of a file to upload or add, MiB")
    max_rows: NonNegativeInt = Field(2_000_000, description="maximum number of rows in a dataset")
    max_row_mb: NonNegativeInt = Field(16, description="maximum length of a row of a file, MiB")
    max_field_mb: NonNegativeInt = Field(4, description="maximum length of text in one field, MiB")
    max_nesting: NonNegativeInt = Field(64, description="maximum nesting of lists and objects in a row")
    max_digits: NonNegativeInt = Field(100, description="maximum number of digits in a number")
    max_compression_ratio: NonNegativeInt = Field(
        200, description="maximum ratio of unpacked to compressed bytes of a file"
    )
    read_memory_mb: NonNegativeInt = Field(2048, description="maximum memory for reading a file, MiB")
    read_seconds: NonNegativeFloat = Field(1800.0, description="maximum seconds for reading a file")
    webhook_url: str = Field(
        "", description="address that gets a POST of JSON when a run ends, http or https; empty for none"
    )
    judge_url: str = Field(
        "", description="address of an OpenAI-compatible service that can judge answers, `https://…/v1`; empty for none"
    )
    judge_model: str = Field("", description="model to use there")
    checkpoint_gb: NonNegativeFloat = Field(
        0.0, description="maximum size of one run's checkpoints after it has ended, GiB; 0 for no limit"
    )
    gguf_tools: str = Field("", description="folder of the tools for GGUF files; empty for `tools/gguf` in the home")
    gguf_find_links: str = Field(
        "",
        description=(
            "additional folder or address where pip looks for those tools, for example for a wheel of llama-cpp-python"
        ),
    )
    offline: bool = Field(False, description="never contact the Hugging Face hub (`HF_HUB_OFFLINE=1` does the same)")
    hosted: bool = Field(
        False,
        description=(
            "a studio open to the public: visitors own what they create, within the quotas below; on a "
            "Space (`SPACE_ID`) true unless set"
        ),
    )
    hosted_models: str = Field(
        "smollm2-135m-instruct,HuggingFaceTB/SmolLM2-360M-Instruct,Qwen/Qwen2.5-0.5B-Instruct",
        description=(
            "base models that visitors of a hosted studio may use: names in this home or hub ids, separated by commas"
        ),
    )
    admins: str = Field(
        "",
        description=(
            "account names that may see the usage of all visitors of a shared studio, separated by commas; "
            "on a Space its author unless set"
        ),
    )
    queue_most: NonNegativeInt = Field(
        40, description="maximum queued runs in a hosted studio; 0 for no limit, also in all settings below"
    )
    quota_running: NonNegativeInt = Field(
        1,
        description=(
            "maximum running exports, evaluations and combinations per visitor, of each; runs take turns anyway"
        ),
    )
    quota_queued: NonNegativeInt = Field(3, description="maximum queued runs per visitor")
    quota_storage_gb: NonNegativeFloat = Field(4.0, description="maximum disk space per visitor, GiB")
    quota_starts_day: NonNegativeInt = Field(12, description="maximum runs a visitor may start or resume per day (UTC)")
    quota_chat_tokens_day: NonNegativeInt = Field(
        40_000, description="maximum tokens generated in the chat per visitor and day (UTC)"
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        try:
            return home.expanduser().absolute()
        except RuntimeError as error:  # the home directory of an unknown user
            raise ValueError(str(error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the given values: the environment is read by `from_env`."""
        return (init_settings,)

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def exports(self) -> Path:
        return self.home / "exports"

    @property
    def adapters(self) -> Path:
        return self.home / "adapters"

    @property
    def evaluations(self) -> Path:
        return self.home / "evaluations"

    @property
    def prompts(self) -> Path:
        return self.home / "prompts"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def staging(self) -> Path:
        return self.home / "staging"

    @property
    def database(self) -> Path:
        return self.home / "studio.db"

    @property
    def keeper_lock(self) -> Path:
        return self.home / "keeper.lock"

    @property
    def uploads(self) -> Path:
        """Folder for incoming uploads, not in a temporary folder shared by all users of the machine."""
        return self.cache / "uploads"

    @property
    def dry_run_lock(self) -> Path:
        return self.home / "dry-run.lock"

    def prepare(self) -> Self:
        """Create the folders of the home, readable by their owner only."""
        inside = (self.runs, self.datasets, self.models, self.adapters, self.exports, self.evaluations, self.prompts)
        for folder in (self.home, *inside, self.cache, self.staging):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                # An existing folder; if it belongs to another user, it is left unchanged.
                with contextlib.suppress(OSError):
                    folder.chmod(0o700)
        return self

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **given: object) -> Self:
        """Create settings from defaults, then STUDIO_* variables, then the `given` values that are not None.

        An empty variable counts as unset. Raises BadInput that names each variable with an invalid value.
        """
        env = os.environ if env is None else env
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): value for name, value in env.items() if name.startswith(_PREFIX) and value}
        values: dict[str, Any] = source()
        if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            values.setdefault("offline", True)
        if env.get("SPACE_ID"):
            values.setdefault("hosted", True)
            values.setdefault("admins", env.get("SPACE_AUTHOR_NAME", ""))
        given = {name: value for name, value in given.items() if value is not None}
        try:
            return cls(**(values | given))
        except ValidationError as error:
            sentences = []
            for item in error.errors():
                name = str(item["loc"][0])
                label = name if name in given else env_name(name)
                sentences.append(f"{label} must be {_allowed(name)}, not {str(item['input'])!r}.")
            raise BadInput(" ".join(sentences)) from None


def env_name(name: str) -> str:
    """The environment variable that sets field `name`."""
    return f"{_PREFIX}{name.upper()}"


def _allowed(name: str) -> str:
    """The values that field `name` may have, in words."""
    schema = Settings.model_json_schema()["properties"][name]
    kinds = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}
    kind = "a folder" if schema.get("format") == "path" else kinds[schema["type"]]
    if "maximum" in schema:
        return f"{kind} from {schema['minimum']} to {schema['maximum']}"
    if "minimum" in schema:
        return f"{kind} of at least {schema['minimum']:g}"
    if "exclusiveMinimum" in schema:
        return f"{kind} greater than {schema['exclusiveMinimum']:g}"
    return kind
