"""Publishing an export on the Hugging Face hub: what would go up, and sending it.

Private unless it is said otherwise. The token is given for one publishing and lives in the environment of one child
(hub/upload.py): no file, journal, log, database or command line ever holds it. Where an export went is noted
beside it, in published.json.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.launch import short_tasks
from studio.rundir import MANIFEST, read_json, write_json
from studio.services.core import access, jobs
from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.exports import exports
from studio.services.models.imports import hub_environment

_HUB = "https://huggingface.co"
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
_TOKEN = re.compile(r"[\x21-\x7e]{8,500}")
_NOTE = "published.json"
_SECONDS = 24 * 3600.0
_CARD = 2**20


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """repo: NAME or OWNER/NAME; public: for everyone to see; update: the repository is there already."""

    repo: str
    public: bool = False
    update: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What would go up. files: names and sizes in bytes; hub: its address; warnings: what to think of first."""

    export: str
    repo: str
    private: bool
    update: bool
    hub: str
    files: tuple[tuple[str, int], ...]
    size: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What went up, where and when."""

    repo: str
    url: str
    private: bool
    commit: str
    time: float
    files: int
    size: int


Steps = Generator[Progress, None, Published]


def preview(studio: Studio, export_id: str, wish: PublishRequest) -> Preview:
    """What publishing would send; raises BadInput or Conflict where it cannot be."""
    folder = _folder(studio, export_id)
    repo = wish.repo.strip()
    if not _NAME.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith((".git", "-", ".")):
        raise BadInput(
            f"{repo[:100]!r} is no name for a repository: write NAME or OWNER/NAME, with letters, digits, - _ ."
        )
    if wish.update and "/" not in repo:
        raise BadInput(f"To update a repository write its owner too: OWNER/{repo}.")
    files = tuple((path.name, path.stat().st_size) for path in _files(folder))
    return Preview(
        export_id, repo, not wish.public, wish.update, _endpoint(), files, sum(size for _, size in files),
        tuple(_warnings(folder, wish)),
    )  # fmt: skip


def publish(studio: Studio, export_id: str, wish: PublishRequest, token: str = "") -> Steps:
    """Send it, step by step; closing this ends it. token: empty for the one of this machine's environment, which only
    its own person is given."""
    told = preview(studio, export_id, wish)
    if studio.settings.offline:
        raise Unavailable("Publishing needs the Hugging Face hub, and this studio is set to stay offline.")
    secret = token.strip() or access.own_token(studio)
    if not secret:
        raise BadInput("Publishing needs a token with write access: give one, or set HF_TOKEN on this machine.")
    if not _TOKEN.fullmatch(secret):
        raise BadInput("This is no token: it has spaces or signs that none has. Copy it from the hub's settings again.")
    folder = _folder(studio, export_id)
    yield Progress(f"Asking the hub for {told.repo}", 0, told.size)
    work = Path(tempfile.mkdtemp(prefix="publish-", dir=studio.settings.staging))
    try:
        order = {
            "repo": told.repo,
            "private": told.private,
            "update": told.update,
            "folder": str(folder),
            "files": [name for name, _ in told.files],
            "message": "Published with LoRA Studio",
        }
        (work / "order.json").write_text(json.dumps(order), encoding="utf-8")
        online = hub_environment(secret) | {
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(work / "hf"),  # nothing of a visitor's is mixed with what the owner has there
        }
        job = jobs.ShortJob(
            "studio.hub.upload", [str(work / "order.json")], work / "log.txt", "commit",
            doing=f"Asking the hub for {told.repo}", seconds=_SECONDS, environment=online,
            missing="Publishing ended without a result. Look on the hub whether anything appeared, and try again.",
        )  # fmt: skip
        return _note(studio, export_id, told, (yield from job.run()))
    except short_tasks.Died as error:
        # Its last words may be anything: they are not repeated.
        why = "took more than a day" if error.timed_out else "ended before it was done"
        raise StudioError(f"Publishing {why}. Look on the hub whether anything appeared, and try again.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def published(studio: Studio, export_id: str) -> list[Published]:
    """Where an export went, newest first."""
    folder, _ = exports.find(studio, export_id)
    told = (read_json(folder.path / _NOTE) or {}).get("published", [])
    return [Published(**entry) for entry in told]


def needs_token(studio: Studio) -> bool:
    """Whether one has to be given: there is none in the environment for whoever asks."""
    return not access.own_token(studio)


def _note(studio: Studio, export_id: str, told: Preview, line: dict[str, Any]) -> Published:
    made = Published(
        str(line["repo"]), str(line["url"]), told.private, str(line["commit"]), time.time(), len(told.files), told.size
    )
    folder, _ = exports.find(studio, export_id)
    earlier = (read_json(folder.path / _NOTE) or {}).get("published", [])
    write_json(folder.path / _NOTE, {"published": [asdict(made), *earlier]})
    return made


def _folder(studio: Studio, export_id: str) -> Path:
    info = exports.get(studio, export_id)
    if info.state != "completed" or info.path is None:
        raise Conflict(
            f"This export is {info.state}: only one that is completed can be published. {info.message}".strip()
        )
    path = Path(info.path)
    # An adapter's folder lies beside the zip of it.
    folder = path.parent / "adapter" if path.is_file() else path
    if not folder.is_dir():
        raise Conflict("The folder of this export is gone. Export it again.")
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and path.name != MANIFEST and not path.name.startswith(".")
    )  # fmt: skip


def _warnings(folder: Path, wish: PublishRequest) -> Generator[str, None, None]:
    if wish.public:
        yield "Everyone will see it. The base's licence, and any terms of your examples, apply to it."
    if not (folder / "README.md").is_file():
        yield "It has no model card: others will not know what it is made from."
        return
    card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:_CARD]
    base = re.search(r"^base_model: *['\"]?(.+?)['\"]?$", card, re.MULTILINE)
    if base and re.match(r"/|[A-Za-z]:|\\|~", base[1]):
        yield f"Its card names the base by a folder of this machine, {base[1][:100]}: others cannot load it by that."


def _endpoint() -> str:
    address = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise BadInput(f"HF_ENDPOINT is {address}: a token is sent over https only. Correct it.")
    return address
