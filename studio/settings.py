"""Settings of one studio: its home and its behaviour. Passed as an argument, never global.

Every field can be set by an environment variable, listed in docs/settings.md; a test keeps that list in sync with this
file. Tests create their own: `Settings(home=tmp_path)`.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from platformdirs import user_data_path

from studio.errors import BadInput

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def default_home() -> Path:
    """The platform's user-data directory for LoRA Studio."""
    return user_data_path("lora-studio", appauthor=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a studio process.

    home                  folder of runs, datasets, models, adapters, exports and the database
    host, port            address on which the web studio listens
    hosts                 additional host names it answers to, separated by commas, such as those of a reverse proxy
    requests_per_second   maximum sustained requests per second from one client; 0 for no limit
    keeper_interval       seconds between the keeper's checks of the run directories
    stop_grace            seconds a worker has to stop by itself before it is signalled
    stalled_after         seconds without progress after which a live worker is shown as stalled
    chat_idle             seconds after which an unused chat worker is ended to free its memory
    warm_seconds          seconds for which a training worker is kept ready after the form was used; 0 for none
    max_file_mb           maximum size of a file to upload or add, MiB
    max_rows              maximum number of rows in a dataset
    max_row_mb            maximum length of a row of a file, MiB
    max_field_mb          maximum length of text in one field, MiB
    max_nesting           maximum nesting of lists and objects in a row
    max_digits            maximum number of digits in a number
    max_compression_ratio maximum ratio of unpacked to compressed bytes of a file
    read_memory_mb        maximum memory for reading a file, MiB
    read_seconds          maximum seconds for reading a file
    webhook_url           address that is notified when a run ends, http or https; empty for none
    judge_url             address of an OpenAI-compatible service that can judge answers, http or https; empty for none
    judge_model           the model to use there
    checkpoint_gb         maximum size of one run's checkpoints after it has ended, GiB; 0 for no limit
    gguf_tools            folder of the tools for GGUF files; empty for tools/gguf in the home
    gguf_find_links       additional folder or address where pip looks for those tools; empty for none
    offline               never contact the Hugging Face hub
    hosted                a studio open to the public: visitors own what they create, with the quotas below
    hosted_models         base models that visitors of a hosted studio may use: local names or hub ids, by commas
    admins                account names that may see the usage of all visitors, separated by commas
    queue_most            maximum queued runs in a hosted studio; 0 for no limit, also in all settings below
    quota_running         maximum running exports, evaluations and combinations per visitor, of each
    quota_queued          maximum queued runs per visitor
    quota_storage_gb      maximum disk space per visitor, GiB
    quota_starts_day      maximum runs a visitor may start per day (UTC)
    quota_chat_tokens_day maximum tokens generated in the chat per visitor and day (UTC)
    """

    home: Path = field(default_factory=default_home)
    host: str = "127.0.0.1"
    port: int = 7860
    hosts: str = ""
    requests_per_second: float = 200.0
    keeper_interval: float = 1.0
    stop_grace: float = 60.0
    stalled_after: float = 300.0
    chat_idle: float = 900.0
    warm_seconds: float = 600.0
    max_file_mb: int = 512
    max_rows: int = 2_000_000
    max_row_mb: int = 16
    max_field_mb: int = 4
    max_nesting: int = 64
    max_digits: int = 100
    max_compression_ratio: int = 200
    read_memory_mb: int = 2048
    read_seconds: float = 1800.0
    webhook_url: str = ""
    judge_url: str = ""
    judge_model: str = ""
    checkpoint_gb: float = 0.0
    gguf_tools: str = ""
    gguf_find_links: str = ""
    offline: bool = False
    hosted: bool = False
    hosted_models: str = "smollm2-135m-instruct,HuggingFaceTB/SmolLM2-360M-Instruct,Qwen/Qwen2.5-0.5B-Instruct"
    admins: str = ""
    queue_most: int = 40
    quota_running: int = 1
    quota_queued: int = 3
    quota_storage_gb: float = 4.0
    quota_starts_day: int = 12
    quota_chat_tokens_day: int = 40_000

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
        """Create settings from defaults, then STUDIO_* variables, then the `given` values that are not None."""
        env = os.environ if env is None else env
        values: dict[str, object] = {}
        for item in fields(cls):
            variable = env_name(item.name)
            if variable in env and env[variable] != "":
                values[item.name] = _parse(item.name, item.type, env[variable])
        if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            values.setdefault("offline", True)
        if env.get("SPACE_ID"):
            values.setdefault("hosted", True)
            values.setdefault("admins", env.get("SPACE_AUTHOR_NAME", ""))
        values |= {name: value for name, value in given.items() if value is not None}
        return cls(**values)  # type: ignore[arg-type]


def env_name(name: str) -> str:
    """The environment variable that sets field `name`."""
    return f"STUDIO_{name.upper()}"


def _parse(name: str, kind: object, text: str) -> object:
    if kind is Path:
        return Path(text).expanduser().absolute()
    if kind is bool:
        return text.lower() in ("1", "true", "yes", "on")
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            raise BadInput(f"{env_name(name)} must be a number, not {text!r}.") from None
    return text
