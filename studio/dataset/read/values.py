"""Values of a file as text, as the person wrote them."""

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from studio.dataset.read.rows import Kind

# From here on a whole float is written with its exponent: more digits would pretend to be known.
_LARGEST_WHOLE = 1e15


class ValueFault(Exception):
    """A value that cannot become part of an example; formats.py converts it to a Finding."""

    def __init__(self, kind: Kind, field: str, reason: str, fix: str) -> None:
        self.kind, self.field, self.reason, self.fix = kind, field, reason, fix


class WrittenNumber(float):
    """A number that remembers how the file wrote it: 1.10 stays 1.10."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "WrittenNumber":
        number = super().__new__(cls, text)
        number.text = text
        return number


def as_text(value: Any, field: str) -> str:
    """Convert a value to text: texts as they are, numbers as written, dates in ISO 8601, lists and objects as JSON.

    Raises ValueFault for what has no text: null, bytes, half a character.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            fix = "save the text as UTF-8"
            raise ValueFault("wrong_type", field, "contains half a character (a lone surrogate)", fix) from None
        return value
    if isinstance(value, (bool, int, float, Decimal, datetime.date, datetime.time)):
        return _scalar(value)
    if isinstance(value, (Mapping, list)):
        return _json(value, field)
    kinds = {type(None): "nothing (null)", bytes: "binary data"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    raise ValueFault("wrong_type", field, f"contains {kind} instead of text", "convert it to text, or remove the row")


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, WrittenNumber):
        return value.text
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _LARGEST_WHOLE else repr(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value) if isinstance(value, int) else str(value.isoformat())


def _json(value: Any, field: str) -> str:
    """Compact JSON that keeps numbers as written; json.dumps would rewrite them."""
    if isinstance(value, Mapping):
        items = (f"{_json(str(key), field)}:{_json(item, field)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_json(item, field) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float, Decimal)):
        return _scalar(value)
    return json.dumps(as_text(value, field), ensure_ascii=False)
