"""Values of a file as text, as the person wrote them."""

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

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
    """Convert a value to text: texts as they are, numbers as written, dates, times and
    durations in ISO 8601, lists and objects as JSON.

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
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    if isinstance(value, UUID):
        return str(value)
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


def _duration(value: datetime.timedelta) -> str:
    """A duration in ISO 8601: P1DT2H3M4.5S."""
    # pandas' durations have a finer part of their own.
    fraction = abs(value) // datetime.timedelta(microseconds=1) * 1000 + int(getattr(abs(value), "nanoseconds", 0))
    seconds, fraction = divmod(fraction, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    second = f"{seconds}.{fraction:09d}".rstrip("0") if fraction else str(seconds)
    parts = ((str(hours), "H"), (str(minutes), "M"), (second, "S"))
    clock = "".join(f"{amount}{unit}" for amount, unit in parts if amount != "0")
    text = f"P{days}D" if days else "P"
    sign = "-" if value < datetime.timedelta(0) else ""
    return sign + text + (f"T{clock}" if clock else "" if days else "T0S")


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
