"""about.json: what the user sets on a run. It is authoritative; the database has a copy.

Server and commands may change it at the same time: each change is a read-modify-write under one lock for all runs.
Reading is lenient: an invalid field counts as not set.
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from filelock import FileLock, Timeout

from studio.errors import Conflict, Unavailable
from studio.rundir.files import read_json, write_json
from studio.rundir.paths import RunDir

NAME_MOST = 80
NOTES_MOST = 10_000
TAG_MOST = 40
TAGS_MOST = 20
_PATIENCE = 20.0
# Invisible characters that make a line look different: changes of direction, line breaks.
_UNSEEN = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


@dataclass(frozen=True, slots=True)
class About:
    """Content of about.json. created, trashed: seconds since the epoch; order: position in the queue."""

    name: str
    owner: str
    created: float | None
    order: float | None
    notes: str
    tags: tuple[str, ...]
    starred: bool
    trashed: float | None

    @classmethod
    def read(cls, run: RunDir) -> Self:
        """Read the file; if it cannot be read, all fields are unset."""
        value = read_json(run.about) or {}
        tags = value.get("tags")
        named = (
            [tag for text in tags if isinstance(text, str) and (tag := plain_tag(text))]
            if isinstance(tags, list)
            else []
        )
        return cls(
            _clean(value.get("name"))[:NAME_MOST],
            str(value.get("owner", "local")),
            _number(value.get("created")),
            _number(value.get("order")),
            _clean(value.get("notes"), lines=True)[:NOTES_MOST],
            tuple(dict.fromkeys(named))[:TAGS_MOST],
            value.get("starred") is True,
            _number(value.get("trashed")),
        )


def is_plain(text: str, lines: bool = False) -> bool:
    """Whether a text has no control characters. lines: tabs and line ends are allowed."""
    allowed = "\n\t" if lines else ""
    return all(letter in allowed or not _controls(letter) for letter in text)


def plain_tag(text: str) -> str:
    """Normalise a tag: lower case, words joined by hyphens; "" if it is not a valid tag."""
    word = "-".join(unicodedata.normalize("NFC", text).strip().lstrip("#").lower().split())
    if not word or len(word) > TAG_MOST or not any(letter.isalnum() for letter in word):
        return ""
    return word if all(unicodedata.category(letter)[0] in "LMN" or letter in "-_.:+" for letter in word) else ""


def stamp(run: RunDir) -> str:
    """Identifies one version of about.json; empty when there is none."""
    try:
        status = os.stat(f"{run.path}/about.json")  # noqa: PTH116 - called for every run at every pass: a Path takes 3 times as long
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_ino}-{status.st_size}"


@contextlib.contextmanager
def held(run: RunDir) -> Iterator[None]:
    """Lock about.json of all runs against changes by other threads and processes. Not reentrant."""
    lock = FileLock(run.path.parent / ".about.lock", timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise Unavailable(
            "Names and notes of runs are being changed by another process. Try again in a moment."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write(run: RunDir, **values: Any) -> None:
    """Set fields of about.json and keep the others; only call it while `held`."""
    before = read_json(run.about)
    if before is None and run.about.exists():
        raise Conflict(f"{run.about} cannot be read: fix it, or move it away, and try again.")
    write_json(run.about, (before or {}) | values)


def edit(run: RunDir, **values: Any) -> None:
    """Set fields of about.json and keep the others, under the lock."""
    with held(run):
        write(run, **values)


def _controls(letter: str) -> bool:
    return letter in _UNSEEN or unicodedata.category(letter) in ("Cc", "Cs")


def _clean(value: Any, lines: bool = False) -> str:
    if not isinstance(value, str):
        return ""
    allowed = "\n\t" if lines else ""
    return "".join(letter for letter in value if letter in allowed or not _controls(letter)).strip()


def _number(value: Any) -> float | None:
    # In Python bool is an int, but not a valid time.
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
