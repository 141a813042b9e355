"""Expiry in a shared studio: delete the data of anonymous visitors whose cookie can no longer be valid.

An anonymous visitor's cookie is valid for seven days from its creation, so their older data can no longer be reached.
Data of accounts, and runs that are not over, are never deleted.
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
    """Delete what anonymous visitors created more than eight days ago; returns the number of items deleted."""
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
    for root, owner_file in (
        (settings.exports, "export.json"),
        (settings.evaluations, ORDER),
        (settings.prompts, "set.json"),
        (settings.adapters, "about.json"),
        (settings.runs, "about.json"),
        (settings.datasets, "provenance.json"),
    ):
        yield from (folder for folder in root.iterdir() if _is_old(folder / owner_file, before, folder.name))
    votes = settings.home / "votes"
    if votes.is_dir():
        yield from (path.parent for path in votes.glob("*/owner.json") if _is_old(path, before, path.parent.name))
    for name in ("comparisons", "usage"):
        folder = settings.home / name
        if folder.is_dir():
            yield from (path for path in folder.glob("*.json") if _is_old(path, before, path.name))


def _is_old(path: Path, before: float, name: str) -> bool:
    """Whether this file names an anonymous owner and was last written before the given time."""
    if name.startswith("."):
        return False
    record = read_json(path) or {}
    return str(record.get("owner", "")).startswith(ANONYMOUS) and path.stat().st_mtime < before
