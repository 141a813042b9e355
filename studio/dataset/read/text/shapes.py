"""The rows of a JSON object: by split, in columns, under keys, or wrapped; otherwise it is one row."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from studio.dataset.read.names import COLUMNS, and_list, is_held_out, is_train
from studio.dataset.read.strict import RowError, named
from studio.errors import BadInput

_UNDER_NUMBERS = "rows under numbered keys"


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows found in an object. note: the arrangement, for people; "" for the common ones. held_out: rows of splits that
    are held out of training.
    """

    rows: Sequence[Any]
    note: str = ""
    held_out: Sequence[Any] = ()


def shape_of(name: str, value: dict[str, Any]) -> Shape | None:
    """The rows of an object; None when it is itself one row. name: the file's name, for messages."""
    return _splits(name, value) or _table(name, value)


def _table(name: str, value: dict[str, Any]) -> Shape | None:
    return _apart(value) or _wrapped(value) or _columns(name, value) or _numbered_columns(value) or _keyed(value)


def _splits(name: str, value: dict[str, Any]) -> Shape | None:
    """Train rows and held-out rows, each an array or in one of the other shapes."""
    train = [key for key in value if is_train(key)]
    held = [key for key in value if is_held_out(key)]
    parts = {key: _part(name, value[key]) for key in (*train, *held)}
    tables = {key: rows for key, rows in parts.items() if rows is not None}
    if len(train) != 1 or not held or len(tables) != len(parts):
        return None
    for key, item in value.items():
        if key not in tables and isinstance(item, list | dict) and _part(name, item):
            raise BadInput(
                f"{name} has the splits {and_list([*train, *held])}, and rows under {named(key)!r}, which is neither "
                "trained on nor held out. Rename it to train or test, or remove it."
            )
    held_out = [row for key in held for row in tables[key]]
    counts = and_list([f"{len(tables[key]):,} of {named(key)}" for key in held])
    rows = tables[train[0]]
    many = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    beside = _beside(key for key, item in value.items() if key not in tables and item not in (None, "", {}, []))
    note = "; ".join(filter(None, [f"{many} of {named(train[0])}", f"held out: {counts}", beside]))
    return Shape(rows, note, held_out)


def _part(name: str, value: Any) -> Sequence[Any] | None:
    """The rows of one split, or None when it holds none."""
    if isinstance(value, list):
        return value if all(isinstance(row, dict | RowError) for row in value) else None
    shape = _table(name, value) if isinstance(value, dict) else None
    return shape.rows if shape else None


def _apart(value: dict[str, Any]) -> Shape | None:
    """A table as pandas saves it with orient="split": {"columns": […], "index": […], "data": [[…], …]}."""
    columns, data, index = value.get("columns"), value.get("data"), value.get("index")
    if not isinstance(columns, list) or not isinstance(data, list) or set(value) - {"columns", "data", "index"}:
        return None
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
        return None
    if not data or not all(isinstance(cells, list) and len(cells) == len(columns) for cells in data):
        return None
    rows = [dict(zip(columns, cells, strict=True)) for cells in data]
    note = "a table with its columns named apart"
    if isinstance(index, list) and len(index) == len(rows) and not _counts(index):
        rows = _with_keys(index, rows)
        note += ", its index as the column key"
    return Shape(rows, note)


def _wrapped(value: dict[str, Any]) -> Shape | None:
    """A single array of objects: {"data": […], "version": 1}."""
    arrays = {key: item for key, item in value.items() if isinstance(item, list)}
    rows = next(iter(arrays.values()), [])
    if len(arrays) != 1 or not rows or {"messages", "conversations"} & set(arrays):
        return None
    if not all(isinstance(row, dict | RowError) for row in rows):
        return None
    return Shape(rows, _beside(key for key, item in value.items() if key not in arrays and item not in (None, "", {})))


def _beside(keys: Iterable[str]) -> str:
    """A note on keys of the whole file, which are part of no row."""
    named_keys = [named(key) for key in keys if key != "version"]
    return f"not read, because it belongs to no row: {and_list(named_keys)}" if named_keys else ""


def _columns(name: str, value: dict[str, Any]) -> Shape | None:
    """Arrays of equal length, one per column."""
    if not value or not all(isinstance(item, list) for item in value.values()):
        return None
    if any(item and all(isinstance(row, dict | RowError) for row in item) for item in value.values()):
        return None
    lengths = {key: len(item) for key, item in value.items()}
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{key} {length:,}" for key, length in list(lengths.items())[:12])
        raise BadInput(f"{name}: the columns differ in length ({shown}). Every column needs one value per row.")
    return Shape([dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)])


def _numbered_columns(value: dict[str, Any]) -> Shape | None:
    """Columns as pandas saves them: {"question": {"0": …, "1": …}, "answer": {"0": …, "1": …}}."""
    columns = list(value.values())
    if not columns or not all(isinstance(column, dict) and column for column in columns) or _decimal(value):
        return None
    numbers = list(columns[0])
    if not _decimal(columns[0]) or any(column.keys() != columns[0].keys() for column in columns):
        return None
    rows = [{name: column[number] for name, column in value.items()} for number in numbers]
    if _counts(numbers):
        return Shape(rows, "numbered columns")
    return Shape(_with_keys(numbers, rows), "columns under keys, the keys as the column key")


def _keyed(value: dict[str, Any]) -> Shape | None:
    """Rows under keys: {"0": row, "1": row} or {"some-id": row, "other-id": row}."""
    rows = list(value.values())
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects or len(objects) + sum(isinstance(row, RowError) for row in rows) < len(rows):
        return None
    if not _decimal(value):
        if len(rows) < 2 or any(key.lower() in COLUMNS for key in value):
            return None
        if not set.intersection(*map(set, objects)):
            return None
    elif _counts(list(value)):
        return Shape(rows, _UNDER_NUMBERS)
    return Shape(_with_keys(list(value), rows), "rows under keys, their keys as the column key")


def _decimal(value: dict[str, Any]) -> bool:
    return all(key.isdecimal() for key in value)


def _counts(keys: Sequence[Any]) -> bool:
    """Whether keys only count the rows, from 0 or from 1."""
    words = [str(key) for key in keys]
    return any(words == [str(start + place) for place in range(len(words))] for start in (0, 1))


def _with_keys(keys: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
    """The rows with their keys as a first column."""
    taken = {name for row in rows if isinstance(row, dict) for name in row}
    column = next(name for name in _names() if name not in taken)
    return [{column: key} | row if isinstance(row, dict) else row for key, row in zip(keys, rows, strict=True)]


def _names() -> Iterator[str]:
    yield "key"
    number = 2
    while True:
        yield f"key {number}"
        number += 1
