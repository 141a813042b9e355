"""What strangers left in a shared studio goes, once the cookie that it belonged to cannot be valid any more.

An anonymous visitor's cookie is good for seven days from its first, so nobody can ask for anything of theirs that is
older. What does not do: touch what an account owns, or a run that is not over.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from studio.dataset.tokens import cache
from studio.evaluation.files import ORDER
from studio.rundir import read_json, vanish
from studio.services.core.studio import Studio
from studio.store import runs as rows

ANONYMOUS = "anon-"
_SECONDS = 8 * 86_400.0


def sweep(studio: Studio, now: float | None = None) -> int:
    """Delete what anonymous visitors made more than eight days ago; returns how many things went."""
    before = (time.time() if now is None else now) - _SECONDS
    unfinished = {row.id for row in rows.unfinished(studio.database)}
    count = 0
    for path in list(_old(studio, before)):
        if path.parent == studio.settings.runs and path.name in unfinished:
            continue
        if path.is_file():
            path.unlink(missing_ok=True)
        else:
            vanish(path)
        if path.parent == studio.settings.datasets:
            cache.forget(path, studio.settings.cache / "tokens")
        if path.parent == studio.settings.runs:
            rows.forget(studio.database, path.name)
        count += 1
    return count


def _old(studio: Studio, before: float) -> Iterator[Path]:
    settings = studio.settings
    for root, told in (
        (settings.exports, "export.json"),
        (settings.evaluations, ORDER),
        (settings.prompts, "set.json"),
        (settings.adapters, "about.json"),
        (settings.runs, "about.json"),
        (settings.datasets, "provenance.json"),
    ):
        yield from (folder for folder in root.iterdir() if _is_old(folder / told, before, folder.name))
    votes = settings.home / "votes"
    if votes.is_dir():
        yield from (path.parent for path in votes.glob("*/owner.json") if _is_old(path, before, path.parent.name))
    for name in ("comparisons", "usage"):
        folder = settings.home / name
        if folder.is_dir():
            yield from (path for path in folder.glob("*.json") if _is_old(path, before, path.name))


def _is_old(path: Path, before: float, name: str) -> bool:
    """Whether a file says that its thing is an anonymous visitor's, and was written so long ago."""
    if name.startswith("."):
        return False
    told = read_json(path) or {}
    return str(told.get("owner", "")).startswith(ANONYMOUS) and path.stat().st_mtime < before
