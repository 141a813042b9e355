"""Shape a conversation for a chat template: what the template knows is passed to it, the rest is written as text.

The convention for the rest is that of Hermes and Qwen 2.5: functions within <tools> in the system prompt, calls within
<tool_call>, results within <tool_response> in the user's turn, thinking within <think> before the answer.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studio.dataset.record import Message, system_prompt_of
from studio.dataset.tokens.abilities import Abilities
from studio.dataset.tokens.remarks import NOTHING, Remark
from studio.dataset.tokens.template import Tool, with_system

THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
# The words of Qwen 2.5's template (Apache-2.0), on which many models were trained.
_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{functions}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A conversation as the template gets it, its tools, and remarks on what was written by the studio's convention."""

    messages: list[Message]
    tools: list[Tool]
    remarks: Remark


def shape(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    abilities: Abilities,
    system_prompt: str = "",
    fold: bool = False,
) -> Shaped:
    """Shape a conversation for a template with these abilities.

    system_prompt: for conversations without one. fold: put the system prompt into the first user message, for templates
    that know no system role.
    """
    shaped = with_system(messages, system_prompt)
    known = bool(abilities.calls) and abilities.results
    described = bool(tools) and not (abilities.tools and (known or abilities.asks))
    # A description of the functions takes the system prompt along into the first user message.
    dropped = bool(system_prompt_of(shaped)) and not abilities.system and not fold and not described
    remarks = Remark.SYSTEM_LEFT_OUT if dropped else NOTHING
    if not tools and not fold and all(len(message) == 2 and message["role"] != "tool" for message in shaped):
        return Shaped(shaped, [], remarks)
    left = list(tools)
    if described:
        shaped, left = _with_system_text(shaped, _described(tools), fold or not abilities.system), []
        remarks |= Remark.TOOLS_AS_TEXT
    shaped = [_without_train(message) for message in shaped]
    if any("tool_calls" in message or message["role"] == "tool" for message in shaped):
        if known and not described:
            shaped = _numbered(shaped, abilities)
            if not abilities.beside and any("tool_calls" in item and _beside(item) for item in shaped):
                remarks |= Remark.TEXT_BESIDE_CALL
            if not abilities.parallel and any(len(item.get("tool_calls", ())) > 1 for item in shaped):
                remarks |= Remark.CALLS_LEFT_OUT
        else:
            shaped = _as_text(shaped)
            remarks |= Remark.CALLS_AS_TEXT if left else Remark.TOOLS_AS_TEXT
    if any("reasoning_content" in message for message in shaped):
        if abilities.thoughts:
            shaped = [_renamed(message, abilities.thoughts) for message in shaped]
        else:
            shaped = [_with_thought(message) for message in shaped]
            remarks |= Remark.THOUGHT_AS_TEXT
    if abilities.null:
        shaped = [_with_null(message, abilities) for message in shaped]
    if fold and system_prompt_of(shaped):
        shaped = _folded(shaped)
        remarks |= Remark.SYSTEM_FOLDED
    return Shaped(shaped, left, remarks)


def thought_of(message: Message) -> str:
    """The assistant's thinking in a message: its own key, or the part of its content within <think>."""
    for name in _THOUGHT_KEYS:
        if name in message:
            return str(message[name])
    found = THINK.match(message["content"] or "")
    return found[1].strip() if found else ""


def without_thought(message: Message) -> Message:
    """A message without the assistant's thinking."""
    rest = {key: value for key, value in message.items() if key not in _THOUGHT_KEYS}
    return rest | {"content": THINK.sub("", message["content"], count=1)} if message["content"] else rest


def with_thought_named(message: Message, name: str) -> Message:
    """A message with a name in place of the assistant's thinking."""
    for key in _THOUGHT_KEYS:
        if key in message:
            return message | {key: name}
    found = THINK.match(message["content"] or "")
    if not found:
        return message
    start, end = found.span(1)
    return message | {"content": f"{message['content'][:start]}\n{name}\n{message['content'][end:]}"}


def _beside(call: Message) -> str:
    """The text beside a call, without the thinking before it."""
    return THINK.sub("", call["content"], count=1).strip()


def _described(tools: Sequence[Tool]) -> str:
    functions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return _TOOLS.format(functions=functions)


def _with_system_text(messages: list[Message], text: str, into_user: bool) -> list[Message]:
    """Messages with a text at the end of the system prompt, or at the start of the first user message."""
    system = system_prompt_of(messages)
    whole = f"{system}\n\n{text}" if system else text
    rest = messages[1:] if messages and messages[0]["role"] == "system" else messages
    shaped = [{"role": "system", "content": whole}, *rest]
    return _folded(shaped) if into_user else shaped


def _folded(messages: list[Message]) -> list[Message]:
    """The system prompt at the start of the first user message."""
    system, *rest = messages
    at = next((place for place, message in enumerate(rest) if message["role"] == "user"), None)
    if at is None:
        return messages
    content = f"{system['content']}\n\n{rest[at]['content']}"
    return [*rest[:at], rest[at] | {"content": content}, *rest[at + 1 :]]


def _without_train(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "train"} if "train" in message else message


def _numbered(messages: list[Message], abilities: Abilities) -> list[Message]:
    """Calls with an id that the template accepts, and results with the id and the name of their function."""
    shaped: list[Message] = []
    ids: dict[str, str] = {}
    taken = {str(call.get("id", "")) for message in messages for call in message.get("tool_calls", ())}
    free = (number for number in map("call{:05}".format, itertools.count(1)) if number not in taken)
    waiting: list[tuple[str, str]] = []
    for message in messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                own = str(call.get("id", ""))
                number = own if own and (_SHORT_ID.fullmatch(own) or not abilities.short_ids) else next(free)
                ids[own or number] = number
                waiting.append((number, call["function"]["name"]))
                calls.append({**call, "id": number, "function": _call_of(call["function"], abilities)})
            message = message | {"tool_calls": calls}
        elif message["role"] == "tool":
            number, name = _answered(message, ids, waiting)
            message = {"name": name, "tool_call_id": number} | message | {"tool_call_id": number}
        shaped.append(message)
    return shaped


def _answered(message: Message, ids: dict[str, str], waiting: list[tuple[str, str]]) -> tuple[str, str]:
    """The id and function of the call that a result answers: by its id, else the first that waits."""
    number = ids.get(str(message.get("tool_call_id", "")))
    found = next((call for call in waiting if number in (None, call[0])), None)
    if found is None:
        return number or "call00000", str(message.get("name", ""))
    waiting.remove(found)
    return found


def _call_of(function: dict[str, Any], abilities: Abilities) -> dict[str, Any]:
    if abilities.calls == "object":
        return function
    return function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def _as_text(messages: list[Message]) -> list[Message]:
    """Tool calls within the assistant's text, results as the user's."""
    shaped: list[Message] = []
    for message in messages:
        if "tool_calls" in message:
            calls = [
                f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
                for call in message["tool_calls"]
            ]
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            shaped.append(rest | {"content": "\n".join([message["content"], *calls] if message["content"] else calls)})
        elif message["role"] == "tool":
            content = f"<tool_response>\n{message['content']}\n</tool_response>"
            if shaped and shaped[-1]["role"] == "user":
                shaped[-1] = shaped[-1] | {"content": f"{shaped[-1]['content']}\n{content}"}
            else:
                shaped.append({"role": "user", "content": content})
        else:
            shaped.append(message)
    return shaped


def _renamed(message: Message, name: str) -> Message:
    if "reasoning_content" not in message or name == "reasoning_content":
        return message
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    return rest | {name: message["reasoning_content"]}


def _with_null(message: Message, abilities: Abilities) -> Message:
    """A call with null content, unless the template keeps the text beside it."""
    bare = "tool_calls" in message and not (message["content"] and abilities.beside)
    return message | {"content": None} if bare else message


def _with_thought(message: Message) -> Message:
    if "reasoning_content" not in message:
        return message
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    return rest | {"content": f"<think>\n{message['reasoning_content']}\n</think>\n\n{message['content']}"}
