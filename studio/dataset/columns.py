"""Sources of an example's fields: a column, a path into nested values, or a text with {column} placeholders.

The steps of a path are separated by dots and list items are counted from 0: `instances.0.output`. A column with that
exact name takes precedence.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.dataset.read.strict import clip, listed, named
from studio.dataset.read.values import ValueFault, as_text
from studio.errors import BadInput

_PLACE = re.compile(r"\{([^{}]+)\}")
# Deep enough for data nested by hand; each level multiplies the choices.
_DEPTH = 3
# Characters of a value that a preview of the mapping sees: enough for a short conversation.
_SAMPLE = 4000
_WISHES = {
    "system": ("system", "system_prompt"),
    "instruction": ("instruction", "question", "prompt", "query", "user", "problem", "input"),
    "input": ("input", "context"),
    "output": ("output", "answer", "response", "completion", "target", "assistant", "solution", "reply"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where one field's value comes from.

    name: as written in the mapping. steps: the path; empty for a text with {column} placeholders.
    """

    name: str
    steps: tuple[str, ...]
    parts: tuple[tuple[str, "Source | None"], ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns it reads."""
        if self.parts:
            return [name for _, part in self.parts if part is not None for name in part.columns]
        return [self.steps[0]]

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
    if expression == field and field in ("input", "history"):
        return Source(expression, (expression,))
    raise BadInput(f"There is no column {named(expression)!r} for {field}. The file has: {listed(columns)}.")


def required(source: Source, values: Mapping[str, Any]) -> str:
    """The text of a required field; raises ValueFault when it is missing or empty."""
    value = source.find(values)
    if value is None:
        missing = not source.parts and source.steps[0] not in values
        reason = "the field is missing" if missing else "the field is null"
        raise ValueFault("missing", source.name, reason, f"add {source.name} to the row")
    text = as_text(value, source.name)
    if not text.strip():
        raise ValueFault("empty", source.name, "the field is empty", "write it or remove the row")
    return text


def optional(source: Source | None, values: Mapping[str, Any]) -> str:
    """The text of an optional field, empty when it is missing."""
    value = source.find(values) if source else None
    return "" if value is None or source is None else as_text(value, source.name)


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
    if depth and isinstance(value, list) and value and depth < _DEPTH:
        return [f"{path}.0"]
    return [path] if value is not None else []


def guess(names: Sequence[str]) -> dict[str, str]:
    """Guess a mapping from common names of columns, or of the last steps of paths."""
    by_end = {name.rpartition(".")[2].lower(): name for name in reversed(names)}
    mapping: dict[str, str] = {}
    for field in ("output", "instruction", "input", "system"):
        free = (by_end[word] for word in _WISHES[field] if word in by_end and by_end[word] not in mapping.values())
        if (name := next(free, None)) is not None:
            mapping[field] = name
    return {field: mapping[field] for field in ("instruction", "input", "output", "system") if field in mapping}


def is_cut(text: str) -> bool:
    """Whether a sample is shorter than its value."""
    return len(text) >= _SAMPLE


def sample(name: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The value of a choice in a row, shortened for display."""
    value = source_of("", name, columns).find(row)
    try:
        text = "" if value is None else as_text(value, name)
    except ValueFault:
        text = str(value)
    return clip(text[:_SAMPLE])
