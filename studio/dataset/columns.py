"""Sources of an example's fields: a column, a path into nested values, or a text with {column} placeholders.

The steps of a path are separated by dots and list items are counted from 0: `instances.0.output`. A column with that
exact name takes precedence.
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
# Deep enough for data nested by hand; each level multiplies the choices.
_DEPTH = 3
_WISHES = {
    "instruction": ("instruction", "question", "prompt", "query", "user", "problem", "input"),
    "input": ("input", "context"),
    "output": ("output", "answer", "response", "completion", "target", "assistant", "solution", "reply"),
}


class MappingError(Exception):
    """A row that cannot become a record; dataset/read/formats.py converts it to a Finding."""

    def __init__(self, kind: Kind, field: str, reason: str, fix: str) -> None:
        self.kind, self.field, self.reason, self.fix = kind, field, reason, fix


@dataclass(frozen=True, slots=True)
class Source:
    """Where one field's value comes from.

    name: as written in the mapping. steps: the path; empty for a text with {column} placeholders.
    """

    name: str
    steps: tuple[str, ...]
    parts: tuple[tuple[str, "Source | None"], ...] = ()

    def find(self, values: Mapping[str, Any]) -> Any:
        """The value in a row, or None if there is none; {column} placeholders are filled in."""
        if self.parts:
            filled = [text if part is None else as_text(part.find(values), part.name) for text, part in self.parts]
            return "".join(filled)
        value: Any = values
        for step in self.steps:
            value = _step(value, step)
        return value

    def unread(self, values: Mapping[str, Any]) -> str:
        """A sentence that names the list items a path like `items.0.text` does not read in this row, or ""."""
        for part in (part for _, part in self.parts if part is not None):
            if message := part.unread(values):
                return message
        if len(self.steps) < 2:
            return ""
        value: Any = values
        for depth, step in enumerate(self.steps):
            if isinstance(value, list) and len(value) > 1:
                return f"{'.'.join(self.steps[:depth])} has {len(value)} items and the mapping reads item {step}"
            value = _step(value, step)
        return ""


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return None


def source_of(field: str, expression: str, columns: Sequence[str]) -> Source:
    """Parse the mapping of one field; raises BadInput when it names a column that does not exist."""
    if expression in columns:
        return Source(expression, (expression,))
    if _PLACE.search(expression):
        parts: list[tuple[str, Source | None]] = []
        at = 0
        for match in _PLACE.finditer(expression):
            parts += [(expression[at : match.start()], None), ("", source_of(field, match[1], columns))]
            at = match.end()
        return Source(expression, (), (*parts, (expression[at:], None)))
    steps = tuple(expression.split("."))
    if len(steps) > 1 and steps[0] in columns and all(steps):
        return Source(expression, steps)
    # The formats' optional fields may be missing.
    if expression == field and field in ("input", "system", "history"):
        return Source(expression, (expression,))
    raise BadInput(f"There is no column {named(expression)!r} for {field}. The file has: {listed(columns)}.")


def required(source: Source, values: Mapping[str, Any]) -> str:
    """The text of a required field; raises MappingError when it is missing or empty."""
    value = source.find(values)
    if value is None:
        missing = not source.parts and source.steps[0] not in values
        reason = "the field is missing" if missing else "the field is null"
        raise MappingError("missing", source.name, reason, f"add {source.name} to the row")
    text = as_text(value, source.name)
    if not text.strip():
        raise MappingError("empty", source.name, "the field is empty", "write it or remove the row")
    return text


def optional(source: Source | None, values: Mapping[str, Any]) -> str:
    """The text of an optional field, empty when it is missing."""
    value = source.find(values) if source else None
    return "" if value is None or source is None else as_text(value, source.name)


def as_text(value: Any, field: str) -> str:
    """Convert a value to text: strings as they are, numbers and true/false as JSON; raises MappingError for others."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            fix = "save the text as UTF-8"
            raise MappingError("wrong_type", field, "contains half a character (a lone surrogate)", fix) from None
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    kinds = {type(None): "nothing (null)", list: "a list", dict: "an object", bytes: "bytes"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    raise MappingError(
        "wrong_type", field, f"contains {kind} instead of text", "convert it to text, or map another column"
    )


def choices(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that a mapping may use: the columns, and paths to the values nested in them in the first rows."""
    names: dict[str, None] = {}
    for column in columns:
        nested = [path for row in rows for path in _leaves(row.get(column), column, _DEPTH)]
        names |= dict.fromkeys(nested or [column])
    return list(names)


def _leaves(value: Any, path: str, depth: int) -> list[str]:
    if depth and isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{path}.{key}", depth - 1)]
    if depth and isinstance(value, list) and value and isinstance(value[0], Mapping):
        return _leaves(value[0], f"{path}.0", depth)
    return [path] if value is not None else []


def guess(names: Sequence[str]) -> dict[str, str]:
    """Guess a mapping from common names of columns, or of the last steps of paths."""
    by_end = {name.rpartition(".")[2].lower(): name for name in reversed(names)}
    mapping: dict[str, str] = {}
    for field in ("output", "instruction", "input"):
        free = (by_end[word] for word in _WISHES[field] if word in by_end and by_end[word] not in mapping.values())
        if (name := next(free, None)) is not None:
            mapping[field] = name
    return {field: mapping[field] for field in ("instruction", "input", "output") if field in mapping}


def sample(name: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The value of a choice in a row, shortened for display."""
    value = source_of("", name, columns).find(row)
    text = (
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    )
    return clip(text[:300])
