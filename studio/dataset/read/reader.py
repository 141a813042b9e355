"""Read dataset files row by row, in bounded memory, with clear errors for invalid files.

Files: json, jsonl, csv, tsv and parquet, each also gzipped. A row is a dict with its number in the file: the line
for jsonl, the record for csv and tsv (the header not counted), the position for json and parquet; all from 1.
The meaning of the columns is decided in formats.py.
"""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from studio.dataset.read import file_types
from studio.dataset.read.arrow.parquet_file import MAGIC, Parquet
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes
from studio.dataset.read.table.csv_file import Table
from studio.dataset.read.text.decoding import Text, Undecodable, wide_encoding
from studio.dataset.read.text.encodings import Proposal
from studio.dataset.read.text.json_file import begins_with_object, many_objects, open_json, read_jsonl
from studio.errors import BadInput

__all__ = ["KINDS", "Proposal", "ReadOptions", "Source", "Undecodable", "open_rows"]

KINDS = ("json", "jsonl", "csv", "tsv", "parquet")
_NAMES = {"json": "JSON", "jsonl": "JSON lines", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet"}
_SUFFIXES = {"ndjson": "jsonl", "jsonlines": "jsonl", "pq": "parquet"}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """User options for reading a file; "" means detect.

    encoding: a name Python knows, such as cp1252. delimiter: the separator of a csv or tsv file, one character or one
    of the words comma, semicolon, tab and pipe. header: whether the first row of such a file names its columns, None to
    detect it.
    """

    encoding: str = ""
    delimiter: str = ""
    header: bool | None = None


@dataclass(slots=True)
class Source:
    """An open dataset file.

    kind: json, jsonl, csv, tsv or parquet. encoding: of the text, "" for parquet. note: description for people of how
    the file is read. columns: known up front for csv, tsv and parquet, else []. rows: rows, and findings for those that
    could not be read; raises BadInput where reading cannot continue. header: whether the first row of a csv or tsv file
    names its columns. question: what a person should confirm about the file, or "".
    """

    kind: str
    encoding: str
    note: str
    columns: list[str]
    rows: Iterator[Row | Finding]
    _done: Callable[[], tuple[int, int]] = field(repr=False)
    header: bool = True
    question: str = ""

    def done(self) -> tuple[int, int]:
        """The bytes of the file read so far, and its size in bytes."""
        return self._done()


@contextmanager
def open_rows(
    path: Path, limits: Limits, how: ReadOptions = ReadOptions(), scratch: Path | None = None
) -> Iterator[Source]:
    """Open a dataset file and close it at the end.

    Raises BadInput when it is not a dataset, here or while its rows are read, and Undecodable when the user must choose
    the encoding. scratch: folder for a temporary copy of a gzipped parquet file; by default the system's.
    """
    source = Bytes(path, limits)
    parquet: Parquet | None = None
    try:
        with _plainly(source.name):
            head = source.head()
            if not head:
                raise BadInput(f"{source.name} is empty once unpacked. It needs at least one example.")
            if head[:4] == MAGIC:
                parquet = Parquet(source, limits, scratch)
                opened = _of_parquet(source, parquet)
            else:
                opened = _of_text(source, limits, how)
        opened.rows = _bounded(source.name, opened.rows, limits)
        yield opened
    finally:
        if parquet:
            parquet.close()
        source.close()


def _of_parquet(source: Bytes, parquet: Parquet) -> Source:
    def done() -> tuple[int, int]:
        return int(source.size * parquet.share()), source.size

    note = f"{_packed(source)}Parquet"
    return Source("parquet", "", note, parquet.columns, parquet.rows(), done)


def _of_text(source: Bytes, limits: Limits, how: ReadOptions) -> Source:
    head = source.head()
    file_types.refuse_binary(source.name, head)
    suffix = _suffix(source.path)
    if suffix == "parquet":
        raise BadInput(
            f"{source.name} is not a parquet file: it does not begin with PAR1. "
            "Download it again, or give it the right file name extension."
        )
    if not (wide_encoding(head) or head[:2] in (b"\xff\xfe", b"\xfe\xff") or how.encoding[:5].lower() in _WIDE):
        file_types.refuse_noise(source.name, head)
    text = Text(source, how.encoding)
    start = text.start(limits.max_row_mb * MIB)
    if not start:
        raise BadInput(f"{source.name} contains only white space. It needs at least one example.")
    file_types.refuse_page(source.name, start, table=suffix in ("csv", "tsv"))
    kind = _kind(source.name, suffix, text, limits)
    rows: Iterator[Row | Finding]
    columns: list[str] = []
    header, question = True, ""
    note = f"{_packed(source)}{_NAMES[kind]}, {text.encoding}"
    if kind in ("csv", "tsv"):
        table = Table(source.name, text, limits, how.delimiter, kind == "tsv", how.header)
        columns, rows, header, question = table.columns, table.rows(), table.header, table.question
        note += f", {table.note}"
    elif kind == "jsonl":
        rows = read_jsonl(text, limits)
    else:
        arrangement, rows = open_json(source.name, text, limits)
        note += f", {arrangement}" if arrangement else ""
    return Source(kind, text.encoding, note, columns, rows, lambda: (source.position(), source.size), header, question)


_WIDE = ("utf16", "utf32", "utf-1", "utf-3", "utf_1", "utf_3")


def _packed(source: Bytes) -> str:
    return "gzipped " if source.packed else ""


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    while suffixes and suffixes[-1] in ("gz", "gzip"):
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    return _SUFFIXES.get(suffix, suffix)


def _kind(name: str, suffix: str, text: Text, limits: Limits) -> str:
    """Type of the file: from its name, unless its first characters contradict it."""
    mark = text.buffer.lstrip()[:1]
    if mark == "[" and (suffix not in ("csv", "tsv") or re.match(r'\s*\[\s*\{\s*"', text.buffer)):
        return "json"
    if mark == "{" and suffix == "jsonl" and begins_with_object(text, limits):
        return "json"
    if mark == "{" and suffix != "jsonl":
        if many_objects(text, limits):
            return "jsonl"
        if suffix not in KINDS:
            return "json"
    if suffix in KINDS:
        return suffix
    ending = f"files ending in .{suffix} are not read" if suffix else "its name does not say what it contains"
    raise BadInput(f"{name}: {ending}. Use a json, jsonl, csv, tsv or parquet file with the matching extension.")


def _bounded(name: str, rows: Iterator[Row | Finding], limits: Limits) -> Iterator[Row | Finding]:
    with _plainly(name):
        for count, row in enumerate(rows, start=1):
            if count > limits.max_rows:
                raise BadInput(f"{name} has more than {limits.max_rows:,} rows ({limit('max_rows')}).")
            yield row


@contextmanager
def _plainly(name: str) -> Iterator[None]:
    """Convert other errors that libraries raise for broken or hostile content to BadInput."""
    try:
        yield
    except RecursionError:
        raise BadInput(f"{name} is nested too deeply to be read. Flatten its lists and objects.") from None
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}. Check the disk and try again.") from None
    except (ValueError, ArithmeticError, EOFError, csv.Error) as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise BadInput(f"{name} cannot be read: {reason[:300]}. Save or download it again.") from None
