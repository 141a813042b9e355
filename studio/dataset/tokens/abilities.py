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

    beside: whether it keeps the text beside a tool call. thoughts: the name under which it reads the assistant's
    thinking; "" if it knows none.
    """

    system: bool
    tools: bool
    calls: Literal["object", "text", ""]
    beside: bool
    results: bool
    thoughts: str


def abilities_of(template: ChatTemplate) -> Abilities:
    """Find out what a template can write. It takes some twenty renderings of a few words."""
    user = {"role": "user", "content": _QUESTION}
    answer = {"role": "assistant", "content": _ANSWER}

    def text(messages: Sequence[Message], tools: bool = False) -> str:
        try:
            return template.render(messages, tools=[_TOOL] if tools else [])
        except BadInput:
            return ""

    calls: Literal["object", "text", ""] = ""
    forms: list[tuple[Literal["object", "text"], Any]] = [
        ("object", {_ARGUMENT: _VALUE}),
        ("text", f'{{"{_ARGUMENT}": "{_VALUE}"}}'),
    ]
    for form, arguments in forms:
        written = text([user, _call(arguments), _result(), answer], tools=True) or text([user, _call(arguments)], True)
        # A Python dict written as it is, or JSON text written as JSON once more, is not what the model knows.
        spoiled = f"'{_ARGUMENT}'" in written or f'\\"{_ARGUMENT}' in written
        if _FUNCTION in _after(written, _QUESTION) and _VALUE in written and not spoiled:
            calls = form
            break
    call = _call(forms[0][1] if calls != "text" else forms[1][1])
    beside = call | {"content": _ANSWER}
    return Abilities(
        system=_SYSTEM in text([{"role": "system", "content": _SYSTEM}, user, answer]),
        tools=_FUNCTION in text([user, answer], tools=True),
        calls=calls,
        beside=bool(calls) and _ANSWER in text([user, beside], tools=True),
        results=bool(calls) and _RESULT in text([user, call, _result(), answer], tools=True),
        thoughts=next((name for name in _THOUGHTS if _THOUGHT in text([user, answer | {name: _THOUGHT}])), ""),
    )


def _call(arguments: Any) -> Message:
    function = {"name": _FUNCTION, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": _ID, "function": function}]}


def _result() -> Message:
    return {"role": "tool", "name": _FUNCTION, "tool_call_id": _ID, "content": _RESULT}


def _after(text: str, mark: str) -> str:
    """The text after a mark: the function's name before it comes from the list of tools."""
    return text.rpartition(mark)[2]
