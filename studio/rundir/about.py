"""about.json: what a person says of a run. It is the truth; the database only repeats it.

Anyone may change it at any time, the server and a command at once: a change is read, made and written whole under one
lock of all runs. What others wrote is read leniently: a field that makes no sense counts as not said.
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
# They make a line look like another one: directions turned round, lines broken inside a name.
_UNSEEN = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


@dataclass(frozen=True, slots=True)
class About:
    """What about.json says. created, trashed: seconds since the epoch; order: its place in the queue."""

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
        """Whatever is in the file; one that cannot be read says nothing."""
        value = read_json(run.about) or {}
        tags = value.get("tags")
        named = (
            [tag for one in tags if isinstance(one, str) and (tag := plain_tag(one))] if isinstance(tags, list) else []
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
    """Whether a text has no control characters; lines: but for tabs and ends of lines."""
    allowed = "\n\t" if lines else ""
    return all(letter in allowed or not _controls(letter) for letter in text)


def plain_tag(text: str) -> str:
    """A tag as it is kept: small letters, words joined by hyphens; nothing where it is no plain word."""
    word = "-".join(unicodedata.normalize("NFC", text).strip().lstrip("#").lower().split())
    if not word or len(word) > TAG_MOST or not any(letter.isalnum() for letter in word):
        return ""
    return word if all(unicodedata.category(letter)[0] in "LMN" or letter in "-_.:+" for letter in word) else ""


def stamp(run: RunDir) -> str:
    """Tells one writing of about.json from another; empty when there is none."""
    try:
        found = os.stat(f"{run.path}/about.json")  # noqa: PTH116 - of every run at every look: a Path costs three times that
    except OSError:
        return ""
    return f"{found.st_mtime_ns}-{found.st_ino}-{found.st_size}"


@contextlib.contextmanager
def held(run: RunDir) -> Iterator[None]:
    """Nobody else changes what is said of runs meanwhile, in this process or another. Not to be held twice."""
    lock = FileLock(run.path.parent / ".about.lock", timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise Unavailable("What is said of runs is being changed elsewhere, for long. Try again in a moment.") from None
    try:
        yield
    finally:
        lock.release()


def write(run: RunDir, **values: Any) -> None:
    """Set fields of about.json, the others as they are; only while it is `held`."""
    before = read_json(run.about)
    if before is None and run.about.exists():
        raise Conflict(f"{run.about} cannot be read: mend it, or move it away, and try again.")
    write_json(run.about, (before or {}) | values)


def edit(run: RunDir, **values: Any) -> None:
    """`write` while it is `held`."""
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
    # A truth value is a whole number to Python, and no time.
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
