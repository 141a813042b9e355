"""Detect the format of a file from its columns and first rows, with a reason for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.dataset.columns import guess
from studio.dataset.read import messages as talks
from studio.dataset.read.accounting import is_empty
from studio.dataset.read.formats import LABELS, SYSTEMS, TALKS, TOOLS, Format, as_label, first_of
from studio.dataset.read.names import column_name
from studio.dataset.read.strict import listed


@dataclass(frozen=True, slots=True)
class Detection:
    """The detected format, or None: then the person decides. why: the reason, for people.

    mapping: a guess to confirm. suggested: a format to confirm, for data that also holds answers not to be learned.
    """

    format: Format | None
    why: str
    mapping: dict[str, str] = field(default_factory=dict)
    suggested: Format | None = None


def detect(columns: Iterable[str], rows: Sequence[Mapping[str, Any]], choices: Sequence[str] = ()) -> Detection:
    """Detect the format of a file from its columns and first rows. choices: names that a guessed mapping may use."""
    names = list(columns)
    present = set(names)
    if {"chosen", "rejected"} <= present:
        why = "this is preference data: each row has a chosen and a rejected answer"
        return Detection(None, why, suggested="preference")
    talk = next((name for name in TALKS if any(_is_talk(row.get(name)) for row in rows)), "")
    if (talk or {"prompt", "completion"} <= present) and (label := _label(names, rows)):
        why = f"this is preference data: the column {label} says which answers are good (true) and bad (false)"
        return Detection(None, why, suggested="kto")
    if talk:
        return Detection("messages" if talk == "messages" else "sharegpt", f"it has a column {talk} with conversations")
    if {"instruction", "output"} <= present:
        extra = [name for name in ("input", *SYSTEMS, "history", *TOOLS) if name in present]
        return Detection("alpaca", f"it has the columns {', '.join(['instruction', *extra, 'output'])}")
    if {"prompt", "completion"} <= present:
        return Detection("prompt/completion", "it has the columns prompt and completion")
    if "text" in present:
        return Detection("text", "it has a column text")
    return _guessed(names, rows, choices)


def _guessed(names: list[str], rows: Sequence[Mapping[str, Any]], choices: Sequence[str]) -> Detection:
    """A mapping for the person to confirm, or none."""
    talk = next((name for name in names if any(talks.looks_like_messages(row.get(name)) for row in rows)), "")
    if talk:
        tools = first_of(TOOLS, names)
        mapping = {"messages": talk} | ({"tools": tools} if tools else {})
        return Detection(None, f"the column {talk} looks like conversations: is that right?", mapping)
    if names == [column_name(1), column_name(2)]:
        mapping = {"instruction": names[0], "output": names[1]}
    else:
        mapping = guess(choices or names)
    if {"instruction", "output"} <= set(mapping):
        asked = " with ".join(mapping[name] for name in ("instruction", "input") if name in mapping)
        system = f", after the system prompt in {mapping['system']}" if "system" in mapping else ""
        return Detection(None, f"{asked} → {mapping['output']}{system}: is that right?", mapping)
    return Detection(None, f"its columns ({listed(names)}) match none of the known formats: say which column is which",
                     mapping)  # fmt: skip


def _is_talk(value: Any) -> bool:
    if isinstance(value, Mapping):
        return talks.looks_like_messages(value)
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _label(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The column that labels answers as good or bad: true and false only."""
    for name in LABELS:
        values = [row.get(name) for row in rows if not is_empty(row.get(name))]
        if name in names and values and all(as_label(value) is not None for value in values):
            return name
    return ""
