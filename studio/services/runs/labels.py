"""Labels of a run: name, note, tags and star. Written to its about.json first, then to the index."""

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

# Seconds to wait for another keeper to see a change; a busy one sees it later.
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
    """Change the labels of a run; None leaves one as it is. If one is invalid, nothing is written.

    Raises NotFound for a run of another owner, and BadInput with what is wrong.
    """
    info = runs.get(studio, run_id)
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = _name(name)
    if notes is not None:
        changes["notes"] = _notes(notes)
    if tags is not None:
        changes["tags"] = plain_tags(tags)
    if starred is not None:
        changes["starred"] = bool(starred)
    return write(studio, info, **changes) if changes else info


def write(studio: Studio, info: RunInfo, **fields: Any) -> RunInfo:
    """Set fields of a run's about.json and update the index. Without the lock, the keeper updates it."""
    about.edit(studio.run_dir(info.id), **fields)
    return follow(studio, info)


def follow(studio: Studio, info: RunInfo) -> RunInfo:
    """Update the index from a run's about.json; without the lock, wait for the keeper to do so."""
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
    """Rename a run; 1 to 80 characters in one line."""
    return change(studio, run_id, name=name)


def note(studio: Studio, run_id: str, text: str) -> RunInfo:
    """Set the note of a run; an empty text removes it."""
    return change(studio, run_id, notes=text)


def tag(studio: Studio, run_id: str, tags: str | Sequence[str]) -> RunInfo:
    """Replace the tags of a run; an empty list removes all."""
    return change(studio, run_id, tags=tags)


def star(studio: Studio, run_id: str, starred: bool = True) -> RunInfo:
    """Star a run, or remove its star."""
    return change(studio, run_id, starred=starred)


def plain_tags(tags: str | Sequence[str]) -> list[str]:
    """Normalised tags: lower case, without duplicates. A text is split at commas and line breaks."""
    parts = tags.replace("\n", ",").split(",") if isinstance(tags, str) else list(tags)
    unique: dict[str, None] = {}
    for part in parts:
        if not part.strip():
            continue
        plain = about.plain_tag(part)
        if not plain:
            raise BadInput(
                f"The tag {part.strip()[:TAG_MOST]!r} cannot be used: a tag is a word of letters, digits, - _ . : +, "
                f"up to {TAG_MOST} characters. Separate tags with commas."
            )
        unique[plain] = None
    if len(unique) > TAGS_MOST:
        raise BadInput(f"A run has at most {TAGS_MOST} tags, not {len(unique)}. Remove some.")
    return list(unique)


def _name(text: str) -> str:
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise BadInput("A run needs a name: write at least one character.")
    if len(name) > NAME_MOST:
        raise BadInput(f"The name has {len(name)} characters; the limit is {NAME_MOST}. Put the rest into the note.")
    if not about.is_plain(name):
        raise BadInput("The name has a line break or another control character. Write it in one line of plain text.")
    return name


def _notes(text: str) -> str:
    notes = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if len(notes) > NOTES_MOST:
        raise BadInput(f"The note has {len(notes):,} characters; the limit is {NOTES_MOST:,}. Shorten it.")
    if not about.is_plain(notes, lines=True):
        raise BadInput("The note has control characters. Paste it as plain text.")
    return notes
