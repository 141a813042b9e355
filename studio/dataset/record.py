"""An example of a dataset, independent of the file it came from.

A message is a dict with "role" (system, user, assistant or tool) and "content" (text, empty beside tool calls), and
only where the file says so:

    reasoning_content   the assistant's thinking before its answer
    tool_calls          the assistant's calls: [{"type": "function", "id"?, "function": {"name", "arguments": {…}}}]
    name, tool_call_id  of a tool's result: the tool's name, and the call that it answers
    train               whether this answer is trained, where the file decides it for each message
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
_PLAIN = ("role", "content")


@dataclass(frozen=True, slots=True)
class Record:
    """One example, independent of its source format.

    row: its number in the source file. messages: the conversation, empty for plain text. instruction and input:
    the values for Alpaca's headings, empty when the example has more than one turn. text: plain text only.
    held_out: from a separate file of held-out examples. group: the same number for rows that repeat each other, 0 if
    not searched. tools: the functions that the assistant may call, as JSON schemas. rejected: of preference data, the
    worse answer, as messages that follow the same prompt.
    """

    row: int
    messages: list[Message]
    instruction: str = ""
    input: str = ""
    text: str = ""
    held_out: bool = False
    group: int = 0
    tools: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)


def to_stored(record: Record) -> dict[str, Any]:
    """A record as values of the dataset's columns (store.py).

    `details` is JSON of everything beyond role, content and text, and empty for an example that has nothing more, whose
    content hash therefore does not depend on it.
    """
    details: dict[str, Any] = {}
    messages = record.messages
    if any(len(message) > len(_PLAIN) for message in messages):
        details["messages"] = [
            {key: value for key, value in message.items() if key not in _PLAIN} for message in messages
        ]
        messages = [{key: message[key] for key in _PLAIN} for message in messages]
    if record.tools:
        details["tools"] = record.tools
    if record.rejected:
        details["rejected"] = record.rejected
    return {
        "row": record.row,
        "messages": messages,
        "instruction": record.instruction,
        "input": record.input,
        "text": record.text,
        "held_out": record.held_out,
        "details": json.dumps(details, ensure_ascii=False) if details else "",
    }


def from_stored(values: Mapping[str, Any], group: int = 0) -> Record:
    """The record of stored values; datasets of the first version have no `details`."""
    plain = {key: value for key, value in values.items() if key != "details"}
    text = values.get("details")
    if not text:
        return Record(**plain, group=group)
    details = json.loads(text)
    if more := details.get("messages"):
        plain["messages"] = [message | extra for message, extra in zip(plain["messages"], more, strict=True)]
    return Record(**plain, group=group, tools=details.get("tools", []), rejected=details.get("rejected", []))


def shown(message: Message) -> str:
    """A message as one text for people: its thinking, its content and its tool calls."""
    parts = []
    if reasoning := message.get("reasoning_content"):
        parts.append(f"<think>\n{reasoning}\n</think>")
    if message["content"]:
        parts.append(message["content"])
    parts += [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def system_prompt_of(messages: Sequence[Message]) -> str:
    """The system prompt that a conversation begins with, or an empty text."""
    return str(messages[0]["content"]) if messages and messages[0]["role"] == "system" else ""
