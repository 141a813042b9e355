"""Values of Arrow columns as plain Python values, numbers as a person would write them."""

import math
from collections.abc import Callable
from typing import Any

from studio.dataset.read.strict import RowError
from studio.dataset.read.values import WrittenNumber

# Errors raised for values that Python cannot represent: dates beyond year 9999, unknown time zones, broken text.
_NO_VALUE = (ValueError, ArithmeticError, LookupError, TypeError, NotImplementedError)
# Short floats between these are written without an exponent.
_SMALLEST, _LARGEST = 1e-4, 1e15
Convert = Callable[[Any], Any]


def values_of(column: Any) -> list[Any]:
    """A column as Python values; converted cell by cell if one of them cannot be represented.

    NaN becomes None, an infinite number a RowError, and a number of 16 or 32 bits the shortest text that gives it.
    """
    try:
        values = column.to_pylist()
    except _NO_VALUE:
        values = [_value(cell) for cell in column]
    convert = _converter(column.type)
    return [convert(value) for value in values] if convert else list(values)


def _value(cell: Any) -> Any:
    import pyarrow as pa

    try:
        return cell.as_py()
    except UnicodeError:
        return RowError("contains bytes that are not UTF-8 text", "save the text as UTF-8")
    except _NO_VALUE:
        # Times beyond Python's precision or range are given as text, without loss.
        try:
            text = cell.cast(pa.string()).as_py()
        except (pa.ArrowException, *_NO_VALUE):
            text = "<value out of range"
        if text.startswith("<value out of range"):
            return RowError(f"contains a {cell.type} that cannot be read", "save the column as text")
        return text.replace(" ", "T", 1) if pa.types.is_timestamp(cell.type) else text


def _converter(kind: Any) -> Convert | None:
    """What to do with each value of a type; None where it stays as it is."""
    import pyarrow.types as types

    if types.is_float16(kind):
        return lambda value: _short(value, "float16")
    if types.is_float32(kind):
        return lambda value: _short(value, "float32")
    if types.is_float64(kind):
        return _real
    if (storage := getattr(kind, "storage_type", None)) is not None:  # an extension type
        return _converter(storage)
    if types.is_struct(kind):
        return _struct({field.name: convert for field in kind if (convert := _converter(field.type))})
    if types.is_map(kind):
        return _pairs(_converter(kind.key_type), _converter(kind.item_type))
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _converter(kind.value_type)
    if hasattr(kind, "value_type"):
        return _list(_converter(kind.value_type))
    return _any if types.is_union(kind) else None


def _struct(fields: dict[str, Convert]) -> Convert | None:
    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return value | {name: fields[name](value[name]) for name in fields if name in value}

    return convert if fields else None


def _list(inner: Convert | None) -> Convert | None:
    if inner is None:
        return None
    return lambda value: [inner(item) for item in value] if isinstance(value, list) else value


def _pairs(key: Convert | None, item: Convert | None) -> Convert:
    """A map as a list of pairs."""

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [[key(name) if key else name, item(inner) if item else inner] for name, inner in value]

    return convert


def _any(value: Any) -> Any:
    """A value of a union, whose type says nothing about it."""
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, list):
        return [_any(item) for item in value]
    if isinstance(value, dict):
        return {key: _any(item) for key, item in value.items()}
    return value


def _real(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else RowError("contains an infinite number", "write a smaller number, or a text")


def _short(value: Any, kind: str) -> Any:
    """A float of 16 or 32 bits by the shortest text that gives it: 0.1, not 0.10000000149011612."""
    import numpy as np

    if value is None or isinstance(value, (str, RowError)):
        return value
    if not math.isfinite(value):
        return _real(float(value))
    number = np.dtype(kind).type(value)
    if value == 0 or _SMALLEST <= abs(value) < _LARGEST:
        return WrittenNumber(np.format_float_positional(number, trim="-"))
    return WrittenNumber(str(number))
