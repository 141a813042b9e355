"""Gives columns their meaning: detects a file's format, says why, and turns each row into one `Record`.

Formats: alpaca (instruction, input, output, also system), prompt/completion, messages, sharegpt, text, and
`mapped`: any columns, named by a mapping from our field to the file's column.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from studio.dataset.read import Reject
from studio.errors import BadInput

Format = Literal["alpaca", "prompt/completion", "messages", "sharegpt", "text", "mapped"]
Message = dict[str, str]

# The fields a mapping may name. `output` is what the model learns to answer.
FIELDS = ("instruction", "input", "output", "system", "text")
# Names other tools give the roles; trained on unmapped they would teach a template of their own.
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


@dataclass(frozen=True, slots=True)
class Record:
    """One example, whatever format it came in.

    row: its number in the source file. messages: the conversation, empty for plain text. instruction and input:
    as Alpaca's headings want them, empty where the example has more than one turn. text: plain text only.
    """

    row: int
    messages: list[Message]
    instruction: str = ""
    input: str = ""
    text: str = ""
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Detection:
    """The format found (None: a mapping is needed) and the reason, for people."""

    format: Format | None
    why: str


def detect(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> Detection:
    """Name the format of a file from its columns and first rows."""
    names = list(columns)
    present = set(names)
    first: Mapping[str, Any] = next(iter(rows), {})
    if "messages" in present and isinstance(first.get("messages"), list):
        return Detection("messages", "it has a column messages that holds conversations")
    if "conversations" in present and isinstance(first.get("conversations"), list):
        return Detection("sharegpt", "it has a column conversations, as ShareGPT files do")
    if {"instruction", "output"} <= present:
        optional = [name for name in ("input", "system") if name in present]
        return Detection("alpaca", f"it has the columns {', '.join(['instruction', *optional, 'output'])}")
    if {"prompt", "completion"} <= present:
        return Detection("prompt/completion", "it has the columns prompt and completion")
    if "text" in present:
        return Detection("text", "it has a column text")
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return Detection(None, f"its columns ({shown}) are none of the known formats: say which column is which")


def check_mapping(mapping: Mapping[str, str], columns: Iterable[str]) -> None:
    """Raise BadInput when a mapping names an unknown field, a missing column or no output."""
    names = list(columns)
    for name, column in mapping.items():
        if name not in FIELDS:
            raise BadInput(f"{name!r} is no field of an example. Map one of: {', '.join(FIELDS)}.")
        if column not in names:
            raise BadInput(f"There is no column {column!r} for {name}. The file has: {', '.join(names)}.")
    if "text" not in mapping and not {"instruction", "output"} <= set(mapping):
        missing = "output" if "instruction" in mapping else "instruction"
        raise BadInput(f"The mapping lacks {missing}: which of {', '.join(names)} is it?")


def to_record(row: int, values: Mapping[str, Any], form: Format, mapping: Mapping[str, str]) -> Record | Reject:
    """One row as a Record, or why it cannot be one."""
    try:
        if form == "messages":
            return _conversation(row, values.get("messages"), "messages", "role", "content")
        if form == "sharegpt":
            return _conversation(row, values.get("conversations"), "conversations", "from", "value")
        if form == "text" or (form == "mapped" and "text" in mapping):
            column = mapping.get("text", "text")
            return Record(row, [], text=_required(values, column))
        if form == "prompt/completion":
            if isinstance(values.get("prompt"), list):
                both = [*values["prompt"], *_as_list(values.get("completion"))]
                return _conversation(row, both, "completion", "role", "content")
            mapping = {"instruction": "prompt", "output": "completion"}
        elif form == "alpaca":
            mapping = {name: name for name in ("instruction", "input", "output", "system")}
        return _single_turn(row, values, mapping)
    except _Bad as bad:
        return Reject(row, bad.field, bad.reason, bad.fix)


class _Bad(Exception):
    def __init__(self, field: str, reason: str, fix: str) -> None:
        self.field, self.reason, self.fix = field, reason, fix


def _single_turn(row: int, values: Mapping[str, Any], mapping: Mapping[str, str]) -> Record:
    instruction = _required(values, mapping["instruction"])
    output = _required(values, mapping["output"])
    extra = _optional(values, mapping.get("input"))
    system = _optional(values, mapping.get("system"))
    question = f"{instruction}\n\n{extra}" if extra else instruction
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return Record(row, messages, instruction=instruction, input=extra)


def _required(values: Mapping[str, Any], column: str) -> str:
    if column not in values:
        raise _Bad(column, "the field is missing", f"give the row a {column}")
    text = _text(values[column], column)
    if not text.strip():
        raise _Bad(column, "the field is empty", f"write a {column} or remove the row")
    return text


def _optional(values: Mapping[str, Any], column: str | None) -> str:
    if column is None or values.get(column) is None:
        return ""
    return _text(values[column], column)


def _text(value: Any, column: str) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Bad(column, "holds half a character (a lone surrogate)", "write the text anew as UTF-8") from None
        return value
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    kind = "nothing (null)" if value is None else "a list" if isinstance(value, list) else "an object"
    raise _Bad(column, f"holds {kind} instead of text", "make it a text, or map another column")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _conversation(row: int, value: Any, column: str, role_key: str, text_key: str) -> Record:
    if not isinstance(value, list) or not value:
        raise _Bad(column, "holds no list of messages", 'write it as [{"role": …, "content": …}, …]')
    messages = []
    for position, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise _Bad(column, f"message {position} is not an object", 'write it as {"role": …, "content": …}')
        # ShareGPT rows appear with either pair of keys.
        role = item.get(role_key, item.get("role"))
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise _Bad(column, f"message {position} has the role {role!r}", "use system, user or assistant")
        content = _text(item.get(text_key, item.get("content")), column)
        messages.append({"role": _ROLES[role.lower()], "content": content})
    _check_order(messages, column)
    turns = [message for message in messages if message["role"] != "system"]
    single = len(turns) == 2
    return Record(row, messages, instruction=turns[0]["content"] if single else "")


def _check_order(messages: list[Message], column: str) -> None:
    turns = [message["role"] for message in messages]
    if "system" in turns[1:]:
        raise _Bad(column, "a system message stands after the first", "put it first or remove it")
    turns = turns[1:] if turns[0] == "system" else turns
    for position, role in enumerate(turns):
        if role != ("user", "assistant")[position % 2]:
            raise _Bad(column, f"turn {position + 1} is {role}'s", "user and assistant must take turns, user first")
    if not turns or turns[-1] != "assistant":
        raise _Bad(column, "the last message is not the assistant's", "end the conversation with an answer")
    if not messages[-1]["content"].strip():
        raise _Bad(column, "the last answer is empty", "write the answer or remove the row")
