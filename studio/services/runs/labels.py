"""What a person says of a run: its name, a note, tags, a star. Written to its about.json first, then to the index."""

import time
import unicodedata
from collections.abc import Sequence
from typing import Any

from studio.errors import BadInput
from studio.rundir import about
from studio.rundir.about import NAME_MOST, NOTES_MOST, TAG_MOST, TAGS_MOST
from studio.services.core.studio import Studio
from studio.services.runs import runs
from studio.services.runs.runs import RunInfo
from studio.store import ingest
from studio.store import runs as rows

# What a keeper that is at work needs at most to see a change; a busy one sees it later.
_PATIENCE = 5.0


def change(
    studio: Studio,
    run_id: str,
    *,
    name: str | None = None,
    notes: str | None = None,
    tags: str | Sequence[str] | None = None,
    starred: bool | None = None,
) -> RunInfo:
    """Say something else of a run; what is None stays. All of it is written, or, where one is wrong, nothing.

    Raises NotFound for a run of another owner, BadInput that names what is wrong.
    """
    info = runs.get(studio, run_id)
    said: dict[str, Any] = {}
    if name is not None:
        said["name"] = _name(name)
    if notes is not None:
        said["notes"] = _notes(notes)
    if tags is not None:
        said["tags"] = plain_tags(tags)
    if starred is not None:
        said["starred"] = bool(starred)
    return write(studio, info, **said) if said else info


def write(studio: Studio, info: RunInfo, **said: Any) -> RunInfo:
    """Set fields of a run's about.json and let the index follow. Without the lock, its keeper sees the change."""
    about.edit(studio.run_dir(info.id), **said)
    return follow(studio, info)


def follow(studio: Studio, info: RunInfo) -> RunInfo:
    """Let the index say of a run what its about.json says now; without the lock, wait for the keeper to do it."""
    run = studio.run_dir(info.id)
    if studio.keeping:
        ingest.register(studio.database, run)
        ingest.take_about(studio.database, run)
    deadline = time.monotonic() + _PATIENCE
    while (known := rows.known(studio.database).get(run.id)) is None or known.about != about.stamp(run):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return runs.get(studio, info.id)


def rename(studio: Studio, run_id: str, name: str) -> RunInfo:
    """Give a run another name; 1 to 80 characters in one line."""
    return change(studio, run_id, name=name)


def note(studio: Studio, run_id: str, text: str) -> RunInfo:
    """Put a note to a run; an empty one takes it away."""
    return change(studio, run_id, notes=text)


def tag(studio: Studio, run_id: str, tags: str | Sequence[str]) -> RunInfo:
    """Give a run these tags and no others; none takes them away."""
    return change(studio, run_id, tags=tags)


def star(studio: Studio, run_id: str, starred: bool = True) -> RunInfo:
    """Give a run a star, or take it away."""
    return change(studio, run_id, starred=starred)


def plain_tags(tags: str | Sequence[str]) -> list[str]:
    """Tags as they are kept: small letters, each once. A text is taken apart at commas and lines."""
    parts = tags.replace("\n", ",").split(",") if isinstance(tags, str) else list(tags)
    found: dict[str, None] = {}
    for part in parts:
        if not part.strip():
            continue
        plain = about.plain_tag(part)
        if not plain:
            raise BadInput(
                f"The tag {part.strip()[:TAG_MOST]!r} cannot be used: a tag is a word of letters, digits, - _ . : +, "
                f"up to {TAG_MOST} characters. Separate tags with commas."
            )
        found[plain] = None
    if len(found) > TAGS_MOST:
        raise BadInput(f"A run has at most {TAGS_MOST} tags, not {len(found)}. Take some away.")
    return list(found)


def _name(text: str) -> str:
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise BadInput("A run needs a name: write at least one character.")
    if len(name) > NAME_MOST:
        raise BadInput(f"The name has {len(name)} characters; {NAME_MOST} are the most. Put the rest into the note.")
    if not about.is_plain(name):
        raise BadInput("The name has a line break or another control character. Write it in one line of plain text.")
    return name


def _notes(text: str) -> str:
    notes = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if len(notes) > NOTES_MOST:
        raise BadInput(f"The note has {len(notes):,} characters; {NOTES_MOST:,} are the most. Shorten it.")
    if not about.is_plain(notes, lines=True):
        raise BadInput("The note has control characters. Paste it as plain text.")
    return notes
