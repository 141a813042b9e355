"""Rules that judge one answer: equal, contained, matched, JSON with the right keys and values, the right tool calls.

Texts are normalised before comparison: Unicode NFC, white space stripped at the ends and collapsed to one space inside.
`exact` is case-sensitive, `contains` is not.
"""

import json
import unicodedata
from typing import Any

import regex

from studio.evaluation import tool_calls
from studio.evaluation.prompts import Check

PATTERN_SECONDS = 1.0  # timeout: a user's pattern may backtrack without end on some answer


def normal(text: str) -> str:
    """Normalise a text for comparison."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact(answer: str, reference: str) -> bool:
    """Whether the two are the same text."""
    return normal(answer) == normal(reference)


def contains(answer: str, wanted: str) -> bool:
    """Whether the answer contains the text, ignoring case."""
    return normal(wanted).casefold() in normal(answer).casefold()


def matches(answer: str, pattern: str) -> bool:
    """Whether the pattern matches anywhere in the answer; a timeout counts as no match."""
    try:
        return regex.search(pattern, answer.strip(), timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        return False


def json_object(text: str) -> dict[str, Any] | None:
    """Parse a text that is exactly one JSON object; None if it is not."""
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def same_keys(answer: str, keys: set[str]) -> bool:
    """Whether the answer is a JSON object with exactly these keys."""
    value = json_object(answer)
    return value is not None and set(value) == keys


def values_share(answer: str, reference: dict[str, Any]) -> float:
    """Share of the reference's keys that the answer has with the same value; 0 if it is not a JSON object."""
    value = json_object(answer)
    if value is None or not reference:
        return 0.0
    return sum(key in value and _same(value[key], wanted) for key, wanted in reference.items()) / len(reference)


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, str) and isinstance(other, str):
        return exact(value, other)
    # In Python True == 1; in JSON they are different.
    return type(value) is type(other) and bool(value == other)


def met(check: Check, answer: str) -> bool:
    """Whether an answer meets its prompt's check."""
    if check.kind == "exact":
        return any(exact(answer, text) for text in check.wanted)
    if check.kind == "contains":
        return any(contains(answer, text) for text in check.wanted)
    if check.kind == "regex":
        return matches(answer, check.wanted[0])
    if check.kind == "tool_call":
        return tool_calls.same(tool_calls.calls_in(answer), check.calls)
    return same_keys(answer, set(check.wanted))
