"""What a machine can tell of one answer: equal, contained, matched, JSON with the right keys and values.

Normalisation, wherever texts are compared: Unicode NFC, white space at the ends taken away and each run of it inside
made one space. Case counts for `exact` and does not for `contains`.
"""

import json
import unicodedata
from typing import Any

import regex

from studio.evaluation.prompts import Check

PATTERN_SECONDS = 1.0  # a pattern of a user's may take for ever on some answer


def normal(text: str) -> str:
    """A text as it is compared."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact(answer: str, reference: str) -> bool:
    """Whether the two are the same text."""
    return normal(answer) == normal(reference)


def contains(answer: str, wanted: str) -> bool:
    """Whether the text stands in the answer, in whatever case."""
    return normal(wanted).casefold() in normal(answer).casefold()


def matches(answer: str, pattern: str) -> bool:
    """Whether the pattern is found in the answer; one that takes too long counts as not found."""
    try:
        return regex.search(pattern, answer.strip(), timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        return False


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, and nothing beside it; None where it is none."""
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
    """The share of the reference's keys that the answer has with the same value; 0 where it is no JSON object."""
    value = json_object(answer)
    if value is None or not reference:
        return 0.0
    return sum(key in value and _same(value[key], told) for key, told in reference.items()) / len(reference)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return exact(one, other)
    # In Python True == 1; in JSON they are different.
    return type(one) is type(other) and bool(one == other)


def met(check: Check, answer: str) -> bool:
    """Whether an answer is as its prompt expects."""
    if check.kind == "exact":
        return any(exact(answer, one) for one in check.wanted)
    if check.kind == "contains":
        return any(contains(answer, one) for one in check.wanted)
    if check.kind == "regex":
        return matches(answer, check.wanted[0])
    return same_keys(answer, set(check.wanted))
