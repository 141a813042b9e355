"""Read the messages of a conversation as people have them: OpenAI's, ShareGPT's and LLaMA-Factory's keys and roles.

Every key of a message is accounted for (accounting.py); a message that cannot be read whole is refused with its place.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from studio.dataset.read.accounting import Account, is_empty
from studio.dataset.read.values import ValueFault, as_text
from studio.dataset.record import Message

# Role names of other tools. Unmapped, they would end up in the chat template's text.
ROLES = {
    "human": "user", "user": "user", "prompter": "user", "input": "user",
    "gpt": "assistant", "assistant": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
    "ai": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool",
    # An assistant's turn whose content is the call, as JSON.
    "function_call": "call", "tool_call": "call",
}  # fmt: skip
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value", "text")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
_TRAIN_KEYS = ("weight", "train", "loss")
_NEEDS_PICTURES = ("image", "image_url", "input_image", "video", "video_url", "audio", "input_audio", "file")
_PLAIN = {"role": "role", "content": "content"}
_SHAREGPT = {"from": "role", "value": "content"}


class Written(dict[str, Any]):
    """A message that the studio wrote around a column's text: its keys are not the file's, and not accounted for."""


class MessageReader:
    """Convert the messages of one column.

    keys: the account of the messages' keys. merge: join consecutive messages of one role. drop: leave out answers
    before the first question, and questions after the last answer. `changes` says what the last conversation needed.
    """

    def __init__(self, keys: Account, merge: bool = False, drop: bool = False) -> None:
        self._keys, self._merge, self._drop = keys, merge, drop
        self.changes: list[str] = []

    def read(self, value: Any, column: str, system: str = "") -> list[Message]:
        """The messages of a conversation that ends with an answer.

        system: a system prompt from elsewhere in the row. Raises ValueFault with the place of what cannot be read.
        """
        self.changes = []
        items = as_items(value, column)
        try:
            messages = self._messages(items, column)
            messages = with_system(messages, system, column)
            messages = self._mended(messages)
            check_order(messages, column)
        except ValueFault:
            for item in items:
                if isinstance(item, Mapping) and not isinstance(item, Written):
                    self._keys.add([str(key) for key, value in item.items() if not is_empty(value)], {}, refused=True)
            raise
        return messages

    def turns(self, value: Any, column: str) -> list[Message]:
        """Messages in any order, such as a prompt without its answer."""
        return self._messages(as_items(value, column), column)

    def _messages(self, items: list[Any], column: str) -> list[Message]:
        for whole, role_key, text_key in ((_PLAIN, "role", "content"), (_SHAREGPT, "from", "value")):
            plain = _plainly(items, role_key, text_key)
            if plain:
                self._keys.add_whole(whole, len(plain))
                return plain
        messages: list[Message] = []
        accounts: list[tuple[Mapping[str, Any], Mapping[str, str]]] = []
        for position, item in enumerate(items, start=1):
            field = f"{column}[{position}]"
            if not isinstance(item, Mapping):
                fix = 'write it as {"role": …, "content": …}'
                raise ValueFault("wrong_type", field, f"message {position} is not an object", fix)
            message, uses = self._message(item, field, position)
            messages.append(message)
            accounts.append((item, uses))
        for item, uses in accounts:
            if isinstance(item, Written):
                continue
            self._keys.add([str(key) for key, value in item.items() if not is_empty(value)], uses)
        return messages

    def _message(self, item: Mapping[str, Any], field: str, position: int) -> tuple[Message, Mapping[str, str]]:
        """One message, and where its keys went."""
        uses: dict[str, str] = {}
        role = _role(item, field, position, uses)
        message: Message = {"role": "assistant" if role == "call" else role, "content": ""}
        if role == "call":
            text_key = _first(item, _TEXT_KEYS) or "content"
            message["tool_calls"] = read_calls(item.get(text_key), field)
            uses[text_key] = "tool calls"
        else:
            message["content"] = self._content(item, field, position, uses)
        self._assistant(item, message, field, position, uses)
        if role == "tool":
            for key in ("name", "tool_call_id"):
                if not is_empty(item.get(key)):
                    message[key], uses[key] = as_text(item[key], f"{field}.{key}"), "the tool's result"
        for key in item:
            if (
                key.rstrip("s") in ("image", "video", "audio")
                and not is_empty(item[key])
                and key not in self._keys.ignored
            ):
                fix = f"leave the row out, or ignore {key} to train on the text alone"
                raise pictures(f"{field}.{key}", f"message {position}", key, fix)
        return message, uses

    def _content(self, item: Mapping[str, Any], field: str, position: int, uses: dict[str, str]) -> str:
        key = _first(item, _TEXT_KEYS)
        if key is None:
            if not is_empty(item.get("refusal")):  # OpenAI: what the assistant says instead of an answer
                uses["refusal"] = "content"
                return as_text(item["refusal"], f"{field}.refusal")
            return ""
        uses[key] = "content"
        value = item[key]
        if isinstance(value, list) and all(isinstance(part, Mapping) and "type" in part for part in value):
            return "".join(_part(part, field, position) for part in value)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return "".join(as_text(part, field) for part in value)
        return as_text(value, field)

    def _assistant(
        self, item: Mapping[str, Any], message: Message, field: str, position: int, uses: dict[str, str]
    ) -> None:
        """Read what only an assistant's message can have; on others it is left unused, and so accounted for."""
        train = next((key for key in _TRAIN_KEYS if item.get(key) is not None and key not in self._keys.ignored), None)
        if message["role"] != "assistant":
            if train and not _flag(item[train], f"{field}.{train}", position):
                uses[train] = "whether it is trained"  # no question is, unless everything is
            return
        if train:
            message["train"] = _flag(item[train], f"{field}.{train}", position)
            uses[train] = "whether it is trained"
        calls = _first(item, ("tool_calls", "function_call"))
        if calls and calls not in self._keys.ignored:
            message["tool_calls"] = read_calls(item[calls], f"{field}.{calls}")
            uses[calls] = "tool calls"
        thinking = _first(item, _REASONING_KEYS)
        if thinking and thinking not in self._keys.ignored:
            message["reasoning_content"] = as_text(item[thinking], f"{field}.{thinking}")
            uses[thinking] = "reasoning"

    def _mended(self, messages: list[Message]) -> list[Message]:
        if self._drop:
            first = next((at for at, item in enumerate(messages) if item["role"] == "user"), 0)
            last = max((at for at, item in enumerate(messages) if item["role"] == "assistant"), default=len(messages))
            kept = [
                item for at, item in enumerate(messages) if (at >= first or item["role"] == "system") and at <= last
            ]
            if len(kept) < len(messages):
                self.changes.append(f"{_many(len(messages) - len(kept))} without a question or an answer left out")
                messages = kept
        if self._merge:
            merged: list[Message] = []
            for message in messages:
                before = merged[-1] if merged else None
                if (
                    before
                    and message["role"] == before["role"] != "tool"
                    and before.get("train") == message.get("train")
                ):
                    merged[-1] = _joined(merged[-1], message)
                else:
                    merged.append(message)
            if len(merged) < len(messages):
                self.changes.append(f"{_many(len(messages) - len(merged))} joined to the one before")
                messages = merged
        return messages


def _plainly(items: list[Any], role_key: str, text_key: str) -> list[Message]:
    """The messages of a conversation that has only roles and texts; empty for any other, which is read key by key."""
    messages: list[Message] = []
    for item in items:
        if type(item) is not dict or len(item) != 2:
            return []
        role, text = item.get(role_key), item.get(text_key)
        if type(role) is not str or type(text) is not str or not text:
            return []
        known = ROLES.get(role)
        if known is None or known == "call":
            return []
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return []
        messages.append({"role": known, "content": text})
    return messages


def as_items(value: Any, column: str) -> list[Any]:
    """The list of messages in a value: a list, its JSON text, or an object of lists of equal length."""
    if isinstance(value, str):
        value = from_json(value, column)
    if isinstance(value, Mapping):
        lists = {key: items for key, items in value.items() if items is not None}
        if lists and all(isinstance(items, list) for items in lists.values()):
            lengths = {len(items) for items in lists.values()}
            if len(lengths) == 1:
                return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
        value = [value] if any(key in value for key in _ROLE_KEYS) else value
    if value is None:
        raise ValueFault("missing", column, "the field is missing", f"add {column} to the row")
    if not isinstance(value, list):
        raise ValueFault(
            "wrong_type", column, "is not a list of messages", 'write it as [{"role": …, "content": …}, …]'
        )
    if not value:
        raise ValueFault("empty", column, "the conversation is empty", "write its messages or remove the row")
    return value


def from_json(text: str, field: str) -> Any:
    """Parse a list or object that a table stores as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueFault("wrong_type", field, "contains text that is not a JSON list", "write it as a list") from None


def looks_like_messages(value: Any) -> bool:
    """Whether a value is a list of messages, in any of the shapes that `as_items` reads."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return False
    try:
        items = as_items(value, "")
    except ValueFault:
        return False
    return all(isinstance(item, Mapping) and _first(item, _ROLE_KEYS) is not None for item in items)


def read_tools(value: Any, field: str) -> list[dict[str, Any]]:
    """The functions that the assistant may call: a list, a single one, or the JSON text of either.

    A bare function is wrapped as {"type": "function", "function": …}, the form that chat templates expect.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueFault("wrong_type", field, "is not a JSON list of functions", "write it as a list") from None
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise ValueFault("wrong_type", field, "is not a list of functions", 'write it as [{"type": "function", …}]')
    tools = []
    for position, item in enumerate(items, start=1):
        function = item.get("function", item)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueFault("wrong_type", f"{field}[{position}]", "has no name of a function", "add its name")
        clean = {key: value for key, value in item.items() if value is not None}
        tools.append(clean if "function" in item else {"type": "function", "function": clean})
    return tools


def read_calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form, its older function_call, or JSON text, with arguments as an object."""
    if isinstance(value, str):
        value = from_json(value, field)
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list) or not items:
        raise ValueFault("wrong_type", field, "is not a list of tool calls", 'write it as [{"function": {…}}]')
    calls = []
    for position, item in enumerate(items, start=1):
        place = f"{field}[{position}]" if isinstance(value, list) else field
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueFault("wrong_type", place, "the call has no name of a function", "add its name")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                reason = "its arguments are not valid JSON"
                raise ValueFault(
                    "wrong_type", f"{place}.arguments", reason, "correct them, or remove the row"
                ) from None
        call: dict[str, Any] = {"type": "function"}
        if isinstance(item.get("id"), str) and item["id"]:
            call["id"] = item["id"]
        call["function"] = {"name": function["name"], "arguments": {} if arguments is None else arguments}
        calls.append(call)
    return calls


def with_system(messages: list[Message], system: str, column: str) -> list[Message]:
    """Messages after a system prompt that the row has in a column of its own."""
    if not system.strip():
        return messages
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == system:
            return messages
        fix = "keep one of the two: remove the message, or ignore the column"
        raise ValueFault("turns", f"{column}[1]", "the row has two system prompts, in a column and in a message", fix)
    return [{"role": "system", "content": system}, *messages]


def pictures(field: str, where: str, what: str, fix: str) -> ValueFault:
    """The refusal of an image, a video or a sound: training is on text."""
    return ValueFault("wrong_type", field, f"{where} has {what}, and the studio trains on text only", fix)


def check_order(messages: Sequence[Message], column: str) -> None:
    """Raise ValueFault unless user, assistant and tools take turns, user first and the assistant last."""
    before = "start"
    for position, message in enumerate(messages, start=1):
        role, field = message["role"], f"{column}[{position}]"
        if role == "system" and position > 1:
            fix = "put it first, or join it to the first"
            raise ValueFault("turns", field, "a system message comes after the first message", fix)
        if role == before and role in ("user", "assistant"):
            reason = f"message {position} ({role}) follows another message of the {role}"
            raise ValueFault("turns", field, reason, "join the two (merge), or remove one")
        if role == "assistant" and before in ("start", "system"):
            reason = f"message {position} (assistant) answers no question"
            raise ValueFault("turns", field, reason, "leave it out (drop), or write the question before it")
        if role == "tool" and before not in ("assistant", "tool"):
            reason = f"message {position} (tool) follows no call of the assistant"
            raise ValueFault("turns", field, reason, "write the call before it, or remove it")
        if not message["content"].strip() and not _may_be_empty(message):
            raise ValueFault("empty", field, f"message {position} ({role}) is empty", "write it or remove the row")
        before = role
    if before != "assistant":
        reason = "the last message is not the assistant's"
        raise ValueFault("turns", column, reason, "end the conversation with an answer, or leave out the end (drop)")


def _may_be_empty(message: Message) -> bool:
    return message["role"] in ("system", "tool") or "tool_calls" in message or "reasoning_content" in message


def _first(item: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of the keys that has a value: a null key stands for another schema's."""
    return next((key for key in keys if not is_empty(item.get(key))), None)


def _role(item: Mapping[str, Any], field: str, position: int, uses: dict[str, str]) -> str:
    key = _first(item, _ROLE_KEYS) or "role"
    role = item.get(key)
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        fix = "use system, user, assistant or tool"
        raise ValueFault("turns", field, f"message {position} has the role {role!r:.80}", fix)
    uses[key] = "role"
    return known


def _part(part: Mapping[str, Any], field: str, position: int) -> str:
    """The text of one of the parts that OpenAI's content may consist of."""
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text", "refusal"):
        return as_text(part.get("refusal") if kind == "refusal" else part.get("text"), field)
    if kind in _NEEDS_PICTURES:
        fix = "remove the part, or leave the row out"
        raise pictures(f"{field}.content", f"message {position}", f"a part of the type {kind}", fix)
    raise ValueFault("wrong_type", field, f"message {position} has a part of the type {kind!r:.80}", "use text parts")


def _flag(value: Any, field: str, position: int) -> bool:
    """Whether a message is trained: weight 0 or 1, train or loss true or false."""
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("0", "1", "true", "false"):
        return value.strip().lower() in ("1", "true")
    fix = "use 1 for answers to train and 0 for the others"
    raise ValueFault("wrong_type", field, f"message {position} has the weight {value!r:.40}", fix)


def _joined(first: Message, second: Message) -> Message:
    """Two messages of one role as one."""
    content = "\n\n".join(text for text in (first["content"], second["content"]) if text)
    joined = first | second | {"content": content}
    if "tool_calls" in first and "tool_calls" in second:
        joined["tool_calls"] = [*first["tool_calls"], *second["tool_calls"]]
    if "reasoning_content" in first and "reasoning_content" in second:
        joined["reasoning_content"] = f"{first['reasoning_content']}\n\n{second['reasoning_content']}"
    return joined


def _many(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"
