"""Settings of one studio: where it lives and how it behaves. Passed around, never global.

Every field can be set by the environment variable named beside it in docs/settings.md, which a test keeps
true to this file. Tests make their own: `Settings(home=tmp_path)`.
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
    """What a studio process is told at its start.

    home                  where runs, datasets, models, adapters, exports and the database live
    host, port            where the web studio listens
    hosts                 more names it answers under, by commas: those of a reverse proxy before it
    requests_per_second   most requests that one client may keep up; 0 for no bound
    keeper_interval       seconds between two looks of the keeper at the run directories
    stop_grace            seconds a worker gets to stop by itself before it is signalled
    stalled_after         seconds without progress after which a live worker is shown as stalled
    chat_idle             seconds after which an unused chat worker gives its memory back
    warm_seconds          seconds for which a training worker is kept ready after the form was used; 0 for none
    max_file_mb           largest file that may be uploaded or added, MiB
    max_rows              most rows a dataset may have
    max_row_mb            longest row of a file, MiB
    max_field_mb          longest text in one field, MiB
    max_nesting           deepest nesting of lists and objects in a row
    max_digits            most digits of a number
    max_compression_ratio most bytes that one byte of a compressed file may unpack to
    read_memory_mb        most memory that reading a file may take, MiB
    read_seconds          most seconds that reading a file may take
    webhook_url           address that is told when a run ends, http or https; empty for none
    judge_url             address of an OpenAI-compatible service that may judge answers, http or https; empty for none
    judge_model           the model to ask there
    checkpoint_gb         most that one run's checkpoints may take once it is over, GiB; 0 for no bound
    gguf_tools            folder of the tools for GGUF files; empty for tools/gguf in the home
    gguf_find_links       folder or address where pip also looks for those tools; empty for none
    offline               never ask the Hugging Face hub for anything
    hosted                a studio that strangers reach: visitors own what they make, with the quotas below
    hosted_models         base models that visitors of a hosted studio may use: names here or hub ids, by commas
    admins                account names whose people see who uses what of a studio that others reach, by commas
    queue_most            most runs that may wait in a hosted studio; 0 for no bound, as in all that follow
    quota_running         exports, evaluations and combinations that one visitor of it may have at work, each
    quota_queued          runs that one visitor of it may have waiting
    quota_storage_gb      disk that one visitor's things may take there, GiB
    quota_starts_day      runs that one visitor may start there a day (UTC)
    quota_chat_tokens_day tokens that one visitor may be answered there a day (UTC)
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
        """Where uploads arrive: not in a folder that everybody on the machine shares."""
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
                # One that was there before; where it is somebody else's, it stays as it is.
                with contextlib.suppress(OSError):
                    folder.chmod(0o700)
        return self

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **given: object) -> Self:
        """Defaults, then STUDIO_* variables, then what is `given` and not None."""
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
