"""Read dataset files row by row, in bounded memory, with clear errors for invalid files.

Files: json, jsonl, csv, tsv, parquet, arrow and plain text, each also gzipped; folders of texts, and folders that the
datasets library saved. A row is a dict with its number in the file: the line for jsonl, the record for csv and tsv (the
header not counted), the position for the others; all from 1. The meaning of the columns is decided in formats.py.
"""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from studio.dataset.read import file_types
from studio.dataset.read.arrow.arrow_file import Arrow, is_arrow
from studio.dataset.read.arrow.parquet_file import MAGIC, Parquet
from studio.dataset.read.arrow.saved import Saved, is_saved
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes, display_name
from studio.dataset.read.table.csv_file import Table
from studio.dataset.read.text.decoding import Text, Undecodable
from studio.dataset.read.text.documents import ENDINGS, Documents, TextFolder, open_text
from studio.dataset.read.text.encodings import Proposal
from studio.dataset.read.text.json_file import begins_with_object, many_objects, open_json, read_jsonl
from studio.errors import BadInput

__all__ = ["KINDS", "Proposal", "ReadOptions", "Source", "Undecodable", "open_rows"]

KINDS = ("json", "jsonl", "csv", "tsv", "parquet", "arrow", "text")
_NAMES = {"json": "JSON", "jsonl": "JSON lines", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet", "text": "plain text"}
_SUFFIXES = {"ndjson": "jsonl", "jsonlines": "jsonl", "pq": "parquet", "feather": "arrow"} | {
    ending.lstrip("."): "text" for ending in ENDINGS
}


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

    kind: json, jsonl, csv, tsv, parquet, arrow or text. encoding: of the text, "" for parquet and arrow. note:
    description for people of how the file is read, complete at the end of the rows. columns: known up front for all but
    json and jsonl, else []. rows: rows, and findings for those that could not be read; raises BadInput where reading
    cannot continue. files: those it consists of. media: columns with pictures or sound. header: whether the first row
    of a csv or tsv file names its columns. question: what a person should confirm about the file, or "".
    """

    kind: str
    encoding: str
    note: str
    columns: list[str]
    rows: Iterator[Row | Finding]
    _done: Callable[[], tuple[int, int]] = field(repr=False)
    files: tuple[Path, ...] = ()
    media: tuple[str, ...] = ()
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
    if _is_folder(path):
        with _plainly(display_name(path)):
            opened = _of_folder(path, limits, how)
        opened.rows = _bounded(display_name(path), opened.rows, limits)
        yield opened
        return
    source = Bytes(path, limits)
    columnar: Parquet | Arrow | None = None
    try:
        with _plainly(source.name):
            head = source.head()
            if not head:
                raise BadInput(f"{source.name} is empty once unpacked. It needs at least one example.")
            if head[:4] == MAGIC:
                columnar = Parquet(source, limits, scratch)
                opened = _of_columns(source, columnar, "parquet", "Parquet")
            elif is_arrow(head):
                columnar = Arrow(source, limits, scratch)
                opened = _of_columns(source, columnar, "arrow", columnar.note)
            else:
                opened = _of_text(source, limits, how)
        opened.files = (path,)
        opened.rows = _bounded(source.name, opened.rows, limits)
        yield opened
    finally:
        if columnar:
            columnar.close()
        source.close()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # opening it as a file names the fault
        return False


def _of_folder(path: Path, limits: Limits, how: ReadOptions) -> Source:
    if is_saved(path):
        saved = Saved(path, limits)
        media = tuple(saved.media)
        return Source("arrow", "", saved.note, saved.columns, saved.rows(), saved.done, saved.files, media)
    texts = TextFolder(path, limits, how.encoding)
    columns, encoding = list(Documents.columns), how.encoding or "UTF-8"
    opened = Source("text", encoding, texts.note, columns, texts.rows(), texts.done, texts.files)
    opened.rows = _counted(opened, texts.documents)
    return opened


def _counted(opened: Source, documents: Documents) -> Iterator[Row | Finding]:
    """The documents of a source, whose note at the end says how many they are."""
    rows = opened.rows

    def counted() -> Iterator[Row | Finding]:
        yield from rows
        many = "1 document" if documents.count == 1 else f"{documents.count:,} documents"
        opened.note += f", {many}"

    return counted()


def _of_columns(source: Bytes, columnar: Parquet | Arrow, kind: str, name: str) -> Source:
    def done() -> tuple[int, int]:
        return int(source.size * columnar.share()), source.size

    note = f"{_packed(source)}{name}"
    return Source(kind, "", note, columnar.columns, columnar.rows(), done, media=tuple(columnar.media))


def _of_text(source: Bytes, limits: Limits, how: ReadOptions) -> Source:
    suffix = _suffix(source.path)
    if suffix in _BINARY:
        file_types.refuse_binary(source.name, source.head())
        raise BadInput(
            f"{source.name} is not {_BINARY[suffix]}. Download it again, or give it the right file name extension."
        )
    text = open_text(source, how.encoding)
    start = text.start(limits.max_row_mb * MIB)
    if not start:
        raise BadInput(f"{source.name} contains only white space. It needs at least one example.")
    file_types.refuse_page(source.name, start, suffix)
    kind = _kind(source.name, suffix, text, limits)
    rows: Iterator[Row | Finding]
    columns: list[str] = []
    header, question = True, ""
    documents: Documents | None = None
    note = f"{_packed(source)}{_NAMES[kind]}, {text.encoding}"
    if kind in ("csv", "tsv"):
        table = Table(source.name, text, limits, how.delimiter, kind == "tsv", how.header)
        columns, rows, header, question = table.columns, table.rows(), table.header, table.question
        note += f", {table.note}"
    elif kind == "text":
        documents = Documents(limits)
        columns, rows = list(Documents.columns), documents.rows(text, source.name)
    elif kind == "jsonl":
        rows = read_jsonl(text, limits)
    else:
        arrangement, rows = open_json(source.name, text, limits)
        note += f", {arrangement}" if arrangement else ""
    opened = Source(kind, text.encoding, note, columns, rows, lambda: (source.position(), source.size))
    opened.header, opened.question = header, question
    if documents is not None:
        opened.rows = _counted(opened, documents)
    return opened


_BINARY = {
    "parquet": "a parquet file: it does not begin with PAR1",
    "arrow": "an Arrow file: it does not begin like one",
}


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
    if mark == "[" and (suffix not in ("csv", "tsv", "text") or re.match(r'\s*\[\s*\{\s*"', text.buffer)):
        return "json"
    if mark == "{" and suffix == "jsonl" and begins_with_object(text, limits):
        return "json"
    if suffix == "text" and not re.match(r'\s*\{\s*"', text.buffer):
        return "text"
    if mark == "{" and suffix != "jsonl":
        if many_objects(text, limits):
            return "jsonl"
        if suffix not in KINDS or suffix == "text":
            return "json"
    if suffix in KINDS:
        return suffix
    ending = f"files ending in .{suffix} are not read" if suffix else "its name does not say what it contains"
    raise BadInput(
        f"{name}: {ending}. Use a json, jsonl, csv, tsv, parquet, arrow or txt file with the matching extension."
    )


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
