"""Publish an export on the Hugging Face hub: preview the upload, then send it.

Private by default. The token is given for one upload and exists only in the environment of one child process
(hub/upload.py): no file, journal, log, database or command line ever contains it. Uploads are recorded next to the
export, in published.json.
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
    """Where to publish. repo: NAME or OWNER/NAME; public: visible to everyone; update: the repository exists."""

    repo: str
    public: bool = False
    update: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be uploaded. files: names and sizes in bytes; hub: its address; warnings: what to consider first."""

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
    """What was uploaded, where and when."""

    repo: str
    url: str
    private: bool
    commit: str
    time: float
    files: int
    size: int


Steps = Generator[Progress, None, Published]


def preview(studio: Studio, export_id: str, request: PublishRequest) -> Preview:
    """What publishing would upload; raises BadInput or Conflict if the export cannot be published."""
    folder = _folder(studio, export_id)
    repo = request.repo.strip()
    if not _NAME.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith((".git", "-", ".")):
        raise BadInput(
            f"{repo[:100]!r} is not a repository name: write NAME or OWNER/NAME, with letters, digits, - _ ."
        )
    if request.update and "/" not in repo:
        raise BadInput(f"To update a repository, write its owner too: OWNER/{repo}.")
    files = tuple((path.name, path.stat().st_size) for path in _files(folder))
    return Preview(
        export_id, repo, not request.public, request.update, _endpoint(), files, sum(size for _, size in files),
        tuple(_warnings(folder, request)),
    )  # fmt: skip


def publish(studio: Studio, export_id: str, request: PublishRequest, token: str = "") -> Steps:
    """Upload an export, step by step; closing this cancels the upload.

    token: empty to use the one in this machine's environment, which only the local person may use.
    """
    plan = preview(studio, export_id, request)
    if studio.settings.offline:
        raise Unavailable("Publishing needs the Hugging Face hub, and this studio is set to stay offline.")
    secret = token.strip() or access.own_token(studio)
    if not secret:
        raise BadInput("Publishing needs a token with write access: give one, or set HF_TOKEN on this machine.")
    if not _TOKEN.fullmatch(secret):
        raise BadInput(
            "This is not a token: it has spaces or characters that no token has. Copy it from the hub's settings again."
        )
    folder = _folder(studio, export_id)
    yield Progress(f"Asking the hub for {plan.repo}", 0, plan.size)
    work = Path(tempfile.mkdtemp(prefix="publish-", dir=studio.settings.staging))
    try:
        order = {
            "repo": plan.repo,
            "private": plan.private,
            "update": plan.update,
            "folder": str(folder),
            "files": [name for name, _ in plan.files],
            "message": "Published with LoRA Studio",
        }
        (work / "order.json").write_text(json.dumps(order), encoding="utf-8")
        online = hub_environment(secret) | {
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(work / "hf"),  # keeps a visitor's files apart from the owner's
        }
        job = jobs.ShortJob(
            "studio.hub.upload", [str(work / "order.json")], work / "log.txt", "commit",
            doing=f"Asking the hub for {plan.repo}", seconds=_SECONDS, environment=online,
            missing="Publishing ended without a result. Check on the hub whether anything appeared, and try again.",
        )  # fmt: skip
        return _note(studio, export_id, plan, (yield from job.run()))
    except short_tasks.Died as error:
        # The output of the child process may contain anything, so it is not repeated.
        why = "took more than a day" if error.timed_out else "ended before it was done"
        raise StudioError(f"Publishing {why}. Check on the hub whether anything appeared, and try again.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def published(studio: Studio, export_id: str) -> list[Published]:
    """The uploads of an export, newest first."""
    folder, _ = exports.find(studio, export_id)
    entries = (read_json(folder.path / _NOTE) or {}).get("published", [])
    return [Published(**entry) for entry in entries]


def needs_token(studio: Studio) -> bool:
    """Whether a token has to be given, because the environment has none that the asker may use."""
    return not access.own_token(studio)


def _note(studio: Studio, export_id: str, plan: Preview, line: dict[str, Any]) -> Published:
    upload = Published(
        str(line["repo"]), str(line["url"]), plan.private, str(line["commit"]), time.time(), len(plan.files), plan.size
    )
    folder, _ = exports.find(studio, export_id)
    earlier = (read_json(folder.path / _NOTE) or {}).get("published", [])
    write_json(folder.path / _NOTE, {"published": [asdict(upload), *earlier]})
    return upload


def _folder(studio: Studio, export_id: str) -> Path:
    info = exports.get(studio, export_id)
    if info.state != "completed" or info.path is None:
        raise Conflict(
            f"This export is {info.state}: only one that is completed can be published. {info.message}".strip()
        )
    path = Path(info.path)
    # An adapter's folder is next to its zip.
    folder = path.parent / "adapter" if path.is_file() else path
    if not folder.is_dir():
        raise Conflict("The folder of this export is gone. Export it again.")
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and path.name != MANIFEST and not path.name.startswith(".")
    )  # fmt: skip


def _warnings(folder: Path, request: PublishRequest) -> Generator[str, None, None]:
    if request.public:
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
