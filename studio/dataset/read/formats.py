"""Dataset formats: detect a file's format, with a reason, and convert each row to a `Record`.

Formats: alpaca (instruction, input, output, also system and history), prompt/completion, messages, sharegpt, text,
and `mapped`: any columns, with a mapping from the studio's fields to the file's columns (columns.py).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from studio.dataset.columns import MappingError, Source, as_text, optional, required, source_of
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.strict import clip, listed
from studio.errors import BadInput

Format = Literal["alpaca", "prompt/completion", "messages", "sharegpt", "text", "mapped"]
Message = dict[str, str]
FORMATS: tuple[Format, ...] = get_args(Format)

# Fields of a mapping. `output` is the answer the model learns.
FIELDS = ("instruction", "input", "output", "system", "history", "text")
_ALPACA = {name: name for name in ("instruction", "input", "output", "system", "history")}
_PAIR = {"instruction": "prompt", "output": "completion", "system": "system"}
# Columns with conversations, by format.
_TALKS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations", "conversation"),
}
# Role names of other tools. Unmapped, they would end up in the chat template's text.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
}
_NEEDS = {
    "alpaca": "the columns instruction and output",
    "prompt/completion": "the columns prompt and completion",
    "messages": "a column messages with a list of {role, content}",
    "sharegpt": "a column conversations with a list of {from, value}",
    "text": "a column text",
    "mapped": "a mapping from fields to columns",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One example, independent of its source format.

    row: its number in the source file. messages: the conversation, empty for plain text. instruction and input:
    the values for Alpaca's headings, empty when the example has more than one turn. text: plain text only.
    held_out: from a separate file of held-out examples. group: the same number for rows that repeat each other, 0 if
    not searched.
    """

    row: int
    messages: list[Message]
    instruction: str = ""
    input: str = ""
    text: str = ""
    held_out: bool = False
    group: int = 0


@dataclass(frozen=True, slots=True)
class Detection:
    """The detected format (None: a mapping is needed) and the reason, for people."""

    format: Format | None
    why: str


def detect(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> Detection:
    """Detect the format of a file from its columns and first rows."""
    names = list(columns)
    present = set(names)
    for form, talks in _TALKS.items():
        for name in talks:
            if name in present and any(_is_talk(row.get(name)) for row in rows):
                return Detection(form, f"it has a column {name} with conversations")
    if {"instruction", "output"} <= present:
        extra = [name for name in ("input", "system", "history") if name in present]
        return Detection("alpaca", f"it has the columns {', '.join(['instruction', *extra, 'output'])}")
    if {"prompt", "completion"} <= present:
        return Detection("prompt/completion", "it has the columns prompt and completion")
    if "text" in present:
        return Detection("text", "it has a column text")
    return Detection(None, f"its columns ({listed(names)}) match none of the known formats: say which column is which")


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


class Layout:
    """Converter from the rows of one file to records. Raises BadInput when columns the format needs are missing."""

    def __init__(self, form: Format, mapping: Mapping[str, str], columns: Sequence[str]) -> None:
        self.format = form
        self._talk = ""
        self._sources: dict[str, Source] = {}
        if form in _TALKS:
            self._talk = next((name for name in _TALKS[form] if name in columns), "")
            if not self._talk:
                raise _lacks(form, columns)
            return
        if form == "mapped":
            _check_mapping(mapping, columns)
            wanted = dict(mapping)
        else:
            wanted = {"alpaca": _ALPACA, "prompt/completion": _PAIR, "text": {"text": "text"}}[form]
            must = ["text"] if form == "text" else [wanted["instruction"], wanted["output"]]
            if not set(must) <= set(columns):
                raise _lacks(form, columns)
        self._sources = {name: source_of(name, expression, columns) for name, expression in wanted.items()}

    def record(self, row: Row) -> Record | Finding:
        """Convert one row to a Record, or to the Finding that says why it cannot be one."""
        try:
            if self._talk:
                return _conversation(row.number, row.values.get(self._talk), self._talk)
            if "text" in self._sources:
                return Record(row.number, [], text=required(self._sources["text"], row.values))
            if self.format == "prompt/completion" and isinstance(row.values.get("prompt"), list):
                after = row.values.get("completion")
                both = [*row.values["prompt"], *(after if isinstance(after, list) else [after])]
                return _conversation(row.number, both, "completion")
            return self._turns(row)
        except MappingError as unfit:
            return Finding(row.number, unfit.kind, unfit.field, unfit.reason, unfit.fix, raw=as_json(row.values))

    def unused(self, row: Row) -> Finding | None:
        """Finding for list items in a kept row that the mapping does not read, or None."""
        for source in self._sources.values():
            message = source.unread(row.values)
            if message:
                fix = "split such rows into several, or map another item"
                return Finding(row.number, "unused", source.name, message, fix)
        return None

    def _turns(self, row: Row) -> Record:
        values = row.values
        instruction = required(self._sources["instruction"], values)
        output = required(self._sources["output"], values)
        extra = optional(self._sources.get("input"), values)
        system = optional(self._sources.get("system"), values)
        earlier = _history(self._sources.get("history"), values)
        question = f"{instruction}\n\n{extra}" if extra else instruction
        messages = [*earlier, {"role": "user", "content": question}, {"role": "assistant", "content": output}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        if earlier:
            return Record(row.number, messages)
        return Record(row.number, messages, instruction=instruction, input=extra)


def as_json(values: Any) -> str:
    """A row as JSON, as far as JSON can represent it, clipped like other raw text."""
    return clip(json.dumps(values, ensure_ascii=False, default=str))


def _lacks(form: Format, columns: Iterable[str]) -> BadInput:
    return BadInput(f"The format {form} needs {_NEEDS[form]}. The file has: {listed(columns)}.")


def _check_mapping(mapping: Mapping[str, str], columns: Sequence[str]) -> None:
    """Raise BadInput when a mapping names an unknown field, a missing column or no output."""
    for name in mapping:
        if name not in FIELDS:
            raise BadInput(f"{name!r} is not a field of an example. Map one of: {', '.join(FIELDS)}.")
    if "text" in mapping:
        others = [name for name in mapping if name != "text"]
        if others:
            raise BadInput(f"text is the whole example: map text alone, or {', '.join(others)} without it.")
    elif not {"instruction", "output"} <= set(mapping):
        missing = "output" if "instruction" in mapping else "instruction"
        raise BadInput(f"The mapping has no {missing}. Map it to one of: {listed(columns)}.")


def _history(source: Source | None, values: Mapping[str, Any]) -> list[Message]:
    """Convert Alpaca's history, a list of [question, answer] pairs, to messages."""
    value = source.find(values) if source else None
    if value is None or value == "" or value == []:
        return []
    field = source.name if source else ""
    if isinstance(value, str):
        value = _from_json(value, field)
    messages: list[Message] = []
    for position, pair in enumerate(value if isinstance(value, list) else [None], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise MappingError(
                "wrong_type", field, f"item {position} is not a pair", "write it as [[question, answer], …]"
            )
        for role, content in zip(("user", "assistant"), pair, strict=True):
            text = as_text(content, field)
            if not text.strip():
                raise MappingError(
                    "empty", field, f"item {position} has an empty {role} turn", "write it or remove the pair"
                )
            messages.append({"role": role, "content": text})
    return messages


def _from_json(text: str, field: str) -> Any:
    """Parse a conversation that a table stores as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise MappingError("wrong_type", field, "contains text that is not a JSON list", "write it as a list") from None


def _conversation(row: int, value: Any, column: str) -> Record:
    if isinstance(value, str):
        value = _from_json(value, column)
    if value is None:
        raise MappingError("missing", column, "the field is missing", f"add {column} to the row")
    if not isinstance(value, list):
        raise MappingError(
            "wrong_type", column, "is not a list of messages", 'write it as [{"role": …, "content": …}, …]'
        )
    if not value:
        raise MappingError("empty", column, "the conversation is empty", "write its messages or remove the row")
    messages = []
    for position, item in enumerate(value, start=1):
        field = f"{column}[{position}]"
        if not isinstance(item, dict):
            fix = 'write it as {"role": …, "content": …}'
            raise MappingError("wrong_type", field, f"message {position} is not an object", fix)
        # Both formats occur with the keys of the other.
        role = item.get("role", item.get("from"))
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise MappingError(
                "turns", field, f"message {position} has the role {role!r}", "use system, user or assistant"
            )
        content = as_text(item.get("content", item.get("value")), field)
        messages.append({"role": _ROLES[role.lower()], "content": content})
    _check_order(messages, column)
    turns = [message for message in messages if message["role"] != "system"]
    return Record(row, messages, instruction=turns[0]["content"] if len(turns) == 2 else "")


def _check_order(messages: list[Message], column: str) -> None:
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        place = roles.index("system", 1) + 1
        raise MappingError(
            "turns", f"{column}[{place}]", "a system message comes after the first message", "put it first"
        )
    first = 1 if roles[0] == "system" else 0
    for position, role in enumerate(roles[first:]):
        if role != ("user", "assistant")[position % 2]:
            place = first + position + 1
            fix = "user and assistant must take turns, user first"
            raise MappingError("turns", f"{column}[{place}]", f"message {place} ({role}) is out of turn", fix)
    if len(roles) == first or roles[-1] != "assistant":
        raise MappingError(
            "turns", column, "the last message is not the assistant's", "end the conversation with an answer"
        )
    for position, message in enumerate(messages, start=1):
        if message["role"] != "system" and not message["content"].strip():
            fix = "write it or remove the row"
            raise MappingError(
                "empty", f"{column}[{position}]", f"message {position} ({message['role']}) is empty", fix
            )
