"""Read tool calls out of an answer, in the forms in which models write them, and compare them as JSON values.

Known forms: <tool_call>{…}</tool_call> (Hermes, Qwen), [TOOL_CALLS][…] and [TOOL_CALLS]name[ARGS]{…} (Mistral),
{"name": …, "parameters": {…}} (Llama 3.1), a fenced block of JSON, and an answer that is JSON and nothing else. Several
calls stand in a list or one after another.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
# The last closing tag may be missing: some templates end an answer with it.
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:json|tool_call)?[ \t]*\n(.*?)```", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w+\s*)?\[ARGS\]", re.ASCII)
_BETWEEN = re.compile(r"[\s;,]*")
_PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function with its arguments."""

    name: str
    arguments: dict[str, Any]

    @property
    def words(self) -> str:
        """The call for people: `get_stock with sku L0`."""
        given = [f"{name} {_plain(value)}" for name, value in self.arguments.items()]
        return f"{self.name} with {', '.join(given)}" if given else self.name


def call_of(text: str) -> Call | None:
    """Parse the JSON text of one call; None if it is not a call."""
    try:
        calls = _calls(_load(text))
    except (ValueError, RecursionError):
        return None
    return calls[0] if len(calls) == 1 else None


def calls_in(answer: str) -> list[Call]:
    """The calls of an answer in its order; empty if there is none, or if one of them cannot be read."""
    text = _THINK.sub("", answer).replace(_PYTHON_TAG, "").strip()
    try:
        if tagged := _TAGGED.findall(text):
            return [call for part in tagged for call in _calls_in_json(part)]
        if _MISTRAL in text:
            return [call for part in text.split(_MISTRAL)[1:] for call in _calls_of_mistral(part)]
        if text.startswith(("{", "[")):
            return _calls_in_json(text)
        return [call for part in _FENCED.findall(text) for call in _calls_in_json(part)]
    except (ValueError, RecursionError):
        return []


def same(calls: Sequence[Call], wanted: Sequence[Call]) -> bool:
    """Whether both hold the same calls, in any order."""
    left = list(wanted)
    for call in calls:
        place = next((place for place, other in enumerate(left) if _same_call(call, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _same_call(call: Call, other: Call) -> bool:
    return call.name == other.name and same_value(call.arguments, other.arguments)


def same_value(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal: true is not 1, but 1.0 is 1, and the order of keys does not count."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(same_value(value[key], other[key]) for key in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(same_value, value, other))
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return (numbers or type(value) is type(other)) and bool(value == other)


def _calls_in_json(text: str) -> list[Call]:
    """Calls of JSON values that stand one after another."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    calls, at = [], _skip(text, 0)
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        calls += _calls(value)
        at = _skip(text, at)
    return calls


def _skip(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _calls_of_mistral(text: str) -> list[Call]:
    named = _NAMED.match(text)
    value, _ = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, _skip(text, named.end() if named else 0))
    return [_call(named[1], value)] if named else _calls(value)


def _calls(value: Any) -> list[Call]:
    """Calls of one JSON value; raises ValueError when it is not a call or a list of calls."""
    if isinstance(value, list):
        return [call for item in value for call in _calls(item)]
    if not isinstance(value, dict):
        raise ValueError("not a call")
    if isinstance(value.get("tool_calls"), list):
        return _calls(value["tool_calls"])
    function = value.get("function", value)
    if not isinstance(function, dict):
        raise ValueError("not a call")
    return [_call(function.get("name"), function.get("arguments", function.get("parameters", {})))]


def _call(name: Any, arguments: Any) -> Call:
    if isinstance(arguments, str):
        arguments = _load(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("not a call")
    return Call(name, arguments)


def _load(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
