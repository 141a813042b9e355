"""Where a field of an example comes from: a column, a path into nested values, or a text with {column} in it.

A path names its steps with dots and counts list items from 0: `instances.0.output`. A column of that very name wins.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.dataset.read.rows import Kind
from studio.dataset.read.strict import clip, listed, named
from studio.errors import BadInput

_PLACE = re.compile(r"\{([^{}]+)\}")
# Deep enough for what people nest by hand; each level multiplies the choices.
_DEPTH = 3
_WISHES = {
    "instruction": ("instruction", "question", "prompt", "query", "user", "problem", "input"),
    "input": ("input", "context"),
    "output": ("output", "answer", "response", "completion", "target", "assistant", "solution", "reply"),
}


class MappingError(Exception):
    """A row that cannot become a record; dataset/read/formats.py makes a Finding of it."""

    def __init__(self, kind: Kind, field: str, reason: str, fix: str) -> None:
        self.kind, self.field, self.reason, self.fix = kind, field, reason, fix


@dataclass(frozen=True, slots=True)
class Source:
    """One field's origin. name: as people wrote it. steps: the path; empty for a text with {column} in it."""

    name: str
    steps: tuple[str, ...]
    parts: tuple[tuple[str, "Source | None"], ...] = ()

    def find(self, values: Mapping[str, Any]) -> Any:
        """The value in a row, None where there is none; a text with {column} comes filled in."""
        if self.parts:
            filled = [text if part is None else as_text(part.find(values), part.name) for text, part in self.parts]
            return "".join(filled)
        found: Any = values
        for step in self.steps:
            found = _step(found, step)
        return found

    def unread(self, values: Mapping[str, Any]) -> str:
        """What a path like `items.0.text` leaves unread in this row: a sentence, or nothing."""
        for part in (part for _, part in self.parts if part is not None):
            if told := part.unread(values):
                return told
        if len(self.steps) < 2:
            return ""
        found: Any = values
        for depth, step in enumerate(self.steps):
            if isinstance(found, list) and len(found) > 1:
                return f"{'.'.join(self.steps[:depth])} has {len(found)} items and the mapping reads item {step}"
            found = _step(found, step)
        return ""


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return None


def source_of(field: str, told: str, columns: Sequence[str]) -> Source:
    """What a mapping says of a field; raises BadInput when it names a column that is not there."""
    if told in columns:
        return Source(told, (told,))
    if _PLACE.search(told):
        parts: list[tuple[str, Source | None]] = []
        at = 0
        for match in _PLACE.finditer(told):
            parts += [(told[at : match.start()], None), ("", source_of(field, match[1], columns))]
            at = match.end()
        return Source(told, (), (*parts, (told[at:], None)))
    steps = tuple(told.split("."))
    if len(steps) > 1 and steps[0] in columns and all(steps):
        return Source(told, steps)
    # The formats' own optional fields need not be there.
    if told == field and field in ("input", "system", "history"):
        return Source(told, (told,))
    raise BadInput(f"There is no column {named(told)!r} for {field}. The file has: {listed(columns)}.")


def required(source: Source, values: Mapping[str, Any]) -> str:
    """The text of a field that must be there; raises Unfit."""
    found = source.find(values)
    if found is None:
        missing = not source.parts and source.steps[0] not in values
        reason = "the field is missing" if missing else "the field holds nothing (null)"
        raise MappingError("missing", source.name, reason, f"give the row its {source.name}")
    text = as_text(found, source.name)
    if not text.strip():
        raise MappingError("empty", source.name, "the field is empty", "write it or remove the row")
    return text


def optional(source: Source | None, values: Mapping[str, Any]) -> str:
    """The text of a field that may be missing."""
    found = source.find(values) if source else None
    return "" if found is None or source is None else as_text(found, source.name)


def as_text(value: Any, field: str) -> str:
    """A value as text: texts as they are, numbers and true/false as JSON writes them; raises Unfit for the rest."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            fix = "write the text anew as UTF-8"
            raise MappingError("wrong_type", field, "holds half a character (a lone surrogate)", fix) from None
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    kinds = {type(None): "nothing (null)", list: "a list", dict: "an object", bytes: "bytes"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    raise MappingError("wrong_type", field, f"holds {kind} instead of text", "make it a text, or map another column")


def choices(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a mapping may name: the columns, and paths to the texts nested in them, as the first rows have them."""
    found: dict[str, None] = {}
    for column in columns:
        nested = [path for row in rows for path in _leaves(row.get(column), column, _DEPTH)]
        found |= dict.fromkeys(nested or [column])
    return list(found)


def _leaves(value: Any, path: str, depth: int) -> list[str]:
    if depth and isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{path}.{key}", depth - 1)]
    if depth and isinstance(value, list) and value and isinstance(value[0], Mapping):
        return _leaves(value[0], f"{path}.0", depth)
    return [path] if value is not None else []


def guess(names: Sequence[str]) -> dict[str, str]:
    """A first mapping from names that columns, or the ends of paths, often have."""
    by_end = {name.rpartition(".")[2].lower(): name for name in reversed(names)}
    mapping: dict[str, str] = {}
    for field in ("output", "instruction", "input"):
        free = (by_end[word] for word in _WISHES[field] if word in by_end and by_end[word] not in mapping.values())
        if (name := next(free, None)) is not None:
            mapping[field] = name
    return {field: mapping[field] for field in ("instruction", "input", "output") if field in mapping}


def sample(name: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """What a choice holds in a row, short, for people."""
    value = source_of("", name, columns).find(row)
    text = (
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    )
    return clip(text[:300])
