"""Reads json, jsonl and csv files into rows, and says plainly where a file is wrong.

A row is a dict with its number in the file: the line for jsonl, the record for csv (the header not counted),
the position in the array for json; all count from 1. What it does not do: give the columns a meaning (formats.py).
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import BadInput

KINDS = ("json", "jsonl", "csv")
# Wide enough for whole documents in a field, narrow enough that one broken quote cannot swallow the memory.
csv.field_size_limit(16 * 2**20)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used: its number, the field at fault, why, and what to do."""

    row: int
    field: str
    reason: str
    fix: str


@dataclass(slots=True)
class Rows:
    """The rows of a file as read: numbered dicts, and the rows that could not be read."""

    kind: str
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    rejected: list[Reject] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Column names in order of first appearance."""
        return list(dict.fromkeys(name for _, row in self.rows for name in row))


def read_rows(path: Path, max_bytes: int, max_rows: int) -> Rows:
    """Read a dataset file. Raises BadInput when it is no dataset; single broken rows are returned as rejected.

    max_bytes, max_rows: limits from the settings, named in the message when hit.
    """
    text = _text(path, max_bytes)
    kind = _kind(path, text)
    found = Rows(kind)
    reader = {"json": _read_json, "jsonl": _read_jsonl, "csv": _read_csv}[kind]
    for number, row in reader(path, text, found.rejected):
        if len(found.rows) >= max_rows:
            raise BadInput(f"{path.name} has more than {max_rows:,} rows, the limit set by STUDIO_MAX_ROWS.")
        found.rows.append((number, row))
    if not found.rows:
        if found.rejected:
            first = found.rejected[0]
            raise BadInput(
                f"{path.name} has no usable row: {len(found.rejected)} cannot be read. "
                f"Row {first.row}: {first.reason}; {first.fix}."
            )
        raise BadInput(f"{path.name} has no rows. It needs at least one example.")
    return found


def _text(path: Path, max_bytes: int) -> str:
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Give a json, jsonl or csv file.")
    try:
        size = path.stat().st_size
    except OSError:
        raise BadInput(f"There is no file {path}.") from None
    if size == 0:
        raise BadInput(f"{path.name} is empty. It needs at least one example.")
    if size > max_bytes:
        raise BadInput(
            f"{path.name} has {size / 2**20:,.0f} MiB; the limit is {max_bytes / 2**20:,.0f} MiB (STUDIO_MAX_FILE_MB)."
        )
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        codec, name = "utf-16", "UTF-16"
    else:
        codec, name = "utf-8-sig", "UTF-8"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{path.name} is not {name} text: line {line} holds the byte 0x{data[error.start]:02x}. "
            "Save it as UTF-8 and try again."
        ) from None
    if not text.strip():
        raise BadInput(f"{path.name} holds nothing but white space. It needs at least one example.")
    if "\x00" in text[:4096]:
        raise BadInput(f"{path.name} is not text: it holds zero bytes. Give a json, jsonl or csv file.")
    return text


def _kind(path: Path, text: str) -> str:
    start = text.lstrip()[:200]
    if start[:1] == "<":
        raise BadInput(f"{path.name} looks like a web page, not a dataset. Download the file itself and try again.")
    suffix = path.suffix.lower().lstrip(".")
    suffix = {"ndjson": "jsonl"}.get(suffix, suffix)
    if suffix == "json" and start[:1] == "{" and _many_objects(text):
        return "jsonl"
    if suffix == "jsonl" and start[:1] == "[":
        return "json"
    if suffix in KINDS:
        return suffix
    if start[:1] == "[":
        return "json"
    if start[:1] == "{":
        return "jsonl" if _many_objects(text) else "json"
    raise BadInput(f"{path.name}: files ending in {path.suffix or 'nothing'} are not read. Give json, jsonl or csv.")


def _many_objects(text: str) -> bool:
    first, _, rest = text.lstrip().partition("\n")
    try:
        return isinstance(_loads(first), dict) and bool(rest.strip())
    except ValueError:
        return False


def _loads(text: str) -> Any:
    """json.loads in which NaN, too deep nesting and absurd numbers are plain ValueErrors."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json_fault(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} at column {error.colno}"
    return str(error)


def _read_jsonl(path: Path, text: str, rejected: list[Reject]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Only \n ends a line in JSON Lines; str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _loads(line)
        except ValueError as error:
            rejected.append(Reject(number, "", f"not valid JSON: {_json_fault(error)}", "mend or remove the line"))
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            rejected.append(
                Reject(number, "", f"{_word(value)} instead of an object", "write it as {…} with named fields")
            )


def _read_json(path: Path, text: str, rejected: list[Reject]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        value = _loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path.name} is not valid JSON: {error.msg[0].lower()}{error.msg[1:]} at line {error.lineno}, "
            f"column {error.colno}. Mend it there, or save one object a line as .jsonl."
        ) from None
    except ValueError as error:
        raise BadInput(f"{path.name} is not valid JSON: {error}.") from None
    if isinstance(value, dict):
        yield from _from_object(path, value)
        return
    if not isinstance(value, list):
        raise BadInput(f"{path.name} holds {_word(value)}. A dataset is an array of objects, one per example.")
    for number, item in enumerate(value, start=1):
        if isinstance(item, dict):
            yield number, item
        else:
            rejected.append(
                Reject(number, "", f"{_word(item)} instead of an object", "write it as {…} with named fields")
            )


def _from_object(path: Path, value: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """One object: of equally long arrays (columns), or one that wraps a single array of objects ("data": […])."""
    arrays = {name: item for name, item in value.items() if isinstance(item, list)}
    wrapped = [item for item in arrays.values() if item and all(isinstance(row, dict) for row in item)]
    if len(wrapped) == 1 and len(arrays) == 1 and not {"messages", "conversations"} & set(arrays):
        yield from enumerate(wrapped[0], start=1)
        return
    if arrays and len(arrays) == len(value) and not wrapped:
        lengths = {name: len(item) for name, item in arrays.items()}
        if len(set(lengths.values())) != 1:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise BadInput(
                f"{path.name}: the columns differ in length ({shown}). Every column needs one value per row."
            )
        for number, cells in enumerate(zip(*arrays.values(), strict=True), start=1):
            yield number, dict(zip(arrays, cells, strict=True))
        return
    yield 1, value


def _read_csv(path: Path, text: str, rejected: list[Reject]) -> Iterator[tuple[int, dict[str, Any]]]:
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(path, header)
                continue
            number += 1
            if len(cells) != len(header):
                reason = f"{len(cells)} fields where the header names {len(header)}"
                rejected.append(Reject(number, "", reason, "check the quotes and separators of this record"))
                continue
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadInput(f"{path.name}, line {reader.line_num}: {error}. Check the quotes near this line.") from None


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise BadInput(f"{path.name}: the column {twice[0]!r} stands twice in the header. Give each its own name.")
    if "" in header:
        raise BadInput(f"{path.name}: column {header.index('') + 1} of the header has no name.")


def _delimiter(text: str) -> str:
    """The separator that the header line uses most; a comma when it uses none."""
    first = text.lstrip("\r\n").split("\n", 1)[0]
    return max(",;\t|", key=lambda mark: (first.count(mark), mark == ","))


def _word(value: Any) -> str:
    names = {
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "nothing (null)")
