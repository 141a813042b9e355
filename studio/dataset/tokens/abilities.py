"""What a chat template can write, found by rendering short conversations with it.

Templates differ in whether they know a system role, a list of tools, tool calls (with arguments as an object or as
text), results of tools and the assistant's thinking. What one does not know, it leaves out without a word or refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from studio.dataset.record import Message
from studio.dataset.tokens.template import ChatTemplate
from studio.errors import BadInput

# Words that no template contains.
_SYSTEM, _QUESTION, _ANSWER = "probe-system-7315", "probe-question-7315", "probe-answer-7315"
_FUNCTION, _ARGUMENT, _VALUE, _RESULT = "probe_function_7315", "probe_argument", "probe-value-7315", "probe-result-7315"
_THOUGHT = "probe-thought-7315"
# Names under which templates read the assistant's thinking, the most common first.
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_ID = "call00001"  # Mistral's templates demand nine letters or digits
_SECOND, _SECOND_ID = "probe_second_7315", "call00002"
_LONG_ID = "call_probe_7315_longer"
_TOOL = {
    "type": "function",
    "function": {
        "name": _FUNCTION,
        "description": "A probe",
        "parameters": {"type": "object", "properties": {_ARGUMENT: {"type": "string", "description": "A text"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template writes. calls: tool calls, with arguments as an object or as JSON text; "" if it knows none.

    beside: whether it keeps the text beside a tool call. null: whether a call is written only where its content is
    null. short_ids: whether ids of calls must have nine letters or digits. asks: whether its list of functions asks for
    calls within <tool_call>, as the studio's convention writes them. parallel: whether it writes
    several calls of one message, or refuses them, instead of leaving some out. thoughts: the name under which it reads
    the assistant's thinking; "" if it knows none.
    """

    system: bool
    tools: bool
    calls: Literal["object", "text", ""]
    beside: bool
    results: bool
    thoughts: str
    null: bool = False
    short_ids: bool = False
    asks: bool = False
    parallel: bool = True


def abilities_of(template: ChatTemplate, offered: bool = True) -> Abilities:
    """Find out what a template can write. It takes some twenty renderings of a few words.

    offered: in conversations with a list of functions, or without one; some templates know calls only beside a list.
    """
    user = {"role": "user", "content": _QUESTION}
    answer = {"role": "assistant", "content": _ANSWER}

    def text(messages: Sequence[Message], tools: bool = False) -> str:
        try:
            return template.render(messages, tools=[_TOOL] if tools and offered else [])
        except BadInput:
            return ""

    def writes(call: Message) -> bool:
        written = text([user, call, _result(), answer], tools=True) or text([user, call], tools=True)
        after = _after(written, _QUESTION)
        # A Python dict written as it is, or JSON text written as JSON once more, is not what the model knows.
        spoiled = f"'{_ARGUMENT}'" in after or f'\\"{_ARGUMENT}' in after
        return _FUNCTION in after and _VALUE in after and not spoiled

    forms: list[tuple[Literal["object", "text"], Any]] = [
        ("object", {_ARGUMENT: _VALUE}),
        ("text", f'{{"{_ARGUMENT}": "{_VALUE}"}}'),
    ]
    known = [(form, _call(arguments, content)) for content in ("", None) for form, arguments in forms]
    none: tuple[Literal["object", "text", ""], Message] = ("", known[0][1])
    calls, call = next((item for item in known if writes(item[1])), none)
    second = call["tool_calls"][0] | {"id": _SECOND_ID}
    second["function"] = second["function"] | {"name": _SECOND}
    listed = text([user, answer], tools=True)
    beside = text([user, call | {"content": _ANSWER}], tools=True)
    long = [_call(call["tool_calls"][0]["function"]["arguments"], call["content"], _LONG_ID), _result(_LONG_ID)]
    return Abilities(
        system=_SYSTEM in text([{"role": "system", "content": _SYSTEM}, user, answer]),
        tools=_FUNCTION in listed,
        calls=calls,
        beside=bool(calls) and _ANSWER in beside and _FUNCTION in _after(beside, _QUESTION),
        results=bool(calls) and _RESULT in text([user, call, _result(), answer], tools=True),
        thoughts=next((name for name in _THOUGHTS if _THOUGHT in text([user, answer | {name: _THOUGHT}])), ""),
        null=bool(calls) and call["content"] is None,
        short_ids=bool(calls) and not text([user, *long, answer], tools=True),
        asks="<tool_call>" in listed,
        parallel=_SECOND in (text([user, call | {"tool_calls": [*call["tool_calls"], second]}], tools=True) or _SECOND),
    )


def _call(arguments: Any, content: str | None, number: str = _ID) -> Message:
    function = {"name": _FUNCTION, "arguments": arguments}
    calls = [{"type": "function", "id": number, "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(number: str = _ID) -> Message:
    return {"role": "tool", "name": _FUNCTION, "tool_call_id": number, "content": _RESULT}


def _after(text: str, mark: str) -> str:
    """The text after a mark: the function's name before it comes from the list of tools."""
    return text.rpartition(mark)[2]
