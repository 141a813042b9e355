"""Plain text files, and folders of them, as documents: a file each, a large file in several at its blank lines."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.dataset.read import file_types
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes, display_name
from studio.dataset.read.strict import check_row, named, unreadable
from studio.dataset.read.text.decoding import Text, Undecodable
from studio.errors import BadInput

ENDINGS = (".txt", ".md", ".markdown", ".text")
# Files that hold rows: in a folder with such files, a text file only describes them.
_DATA = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".gz", ".zip")
_LINE_END = re.compile(r"\r\n|\n|\r")


class Documents:
    """Reader of text files as rows with the columns `text` and `file`. count: documents so far.

    Line ends become \\n, so that they do not depend on the system on which a text was written.
    """

    columns = ("text", "file")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._number = self.count = 0

    def rows(self, text: Text, file: str) -> Iterator[Row | Finding]:
        """Yield the documents of a text. file: its name."""
        for document, whole in self._documents(text):
            if not document.strip():
                continue
            self._number += 1
            if whole:
                row = check_row(self._number, {"text": document, "file": file}, self._limits, document)
                self.count += isinstance(row, Row)
                yield row
            else:
                reason = f"a line is longer than {self._limits.max_row_mb} MiB ({limit('max_row_mb')})"
                yield unreadable(self._number, reason, "break it into lines, or remove it", document, "text")

    def finding(self, file: str, reason: str, fix: str, empty: bool = False) -> Finding:
        """A finding about a file that has no document."""
        self._number += 1
        if empty:
            return Finding(self._number, "empty", "text", f"{file}: {reason}", fix)
        return unreadable(self._number, reason, fix, file, "text")

    def _documents(self, text: Text) -> Iterator[tuple[str, bool]]:
        """Yield documents of at most max_field_mb, and whether each is complete."""
        most = self._limits.max_field_mb * MIB
        lines: list[str] = []
        sizes: list[int] = []
        size = blank = 0  # bytes held, and lines up to the last blank one
        for line, whole in text.lines(_LINE_END, self._limits.max_row_mb * MIB):
            if not whole:
                yield "".join(lines), True
                yield line, False
                lines, sizes, size, blank = [], [], 0, 0
                continue
            plain = line.rstrip("\r\n") + "\n" if line[-1] in "\r\n" else line
            lines.append(plain)
            sizes.append(len(plain) if plain.isascii() else len(plain.encode("utf-8", "surrogatepass")))
            size += sizes[-1]
            while size > most and len(lines) > 1:
                end = blank or len(lines) - 1
                yield "".join(lines[:end]), True
                size -= sum(sizes[:end])
                lines, sizes, blank = lines[end:], sizes[end:], 0
            if not plain.strip():
                blank = len(lines)
        yield "".join(lines), True


@dataclass(frozen=True, slots=True)
class _Listing:
    """The files of a folder. others: number of files that are not text. data: those that hold rows."""

    files: tuple[Path, ...]
    others: int
    data: tuple[str, ...]


class TextFolder:
    """A folder of text files, with all folders in it. Raises BadInput for one without any, or with files of rows.

    note: what was found, for people. files: the text files, in alphabetical order.
    """

    def __init__(self, folder: Path, limits: Limits, encoding: str) -> None:
        self.name = display_name(folder)
        self._folder, self._limits, self._encoding = folder, limits, encoding
        listing = _list(folder, self.name, limits)
        self.files = listing.files
        if listing.data:
            raise BadInput(
                f"{self.name} is a folder with files of rows. Use one of them, such as {named(listing.data[0])}."
            )
        if not self.files:
            raise BadInput(
                f"{self.name} is a folder without .txt or .md files. Use a json, jsonl, csv, tsv, parquet or arrow "
                "file, or a folder of text files, or one that the datasets library saved."
            )
        self.size = sum(path.stat().st_size for path in self.files)
        if self.size > limits.max_file_mb * MIB:
            raise BadInput(f"{self.name} has more than {limits.max_file_mb:,} MiB ({limit('max_file_mb')}).")
        self.note = f"plain text, {encoding or 'UTF-8'}"
        if listing.others:
            many = "1 other file" if listing.others == 1 else f"{listing.others:,} other files"
            self.note += f", without {many} that are not .txt or .md"
        self.documents = Documents(limits)
        self._read = 0

    def done(self) -> tuple[int, int]:
        """The bytes read so far, and all."""
        return self._read, self.size

    def rows(self) -> Iterator[Row | Finding]:
        """Yield the documents. Raises Undecodable where a file's encoding has to be chosen."""
        for path in self.files:
            file = path.relative_to(self._folder).as_posix().encode("utf-8", "backslashreplace").decode()
            size = path.stat().st_size
            try:
                yield from self._file(path, file, size)
            except Undecodable:
                raise
            except BadInput as error:
                yield self.documents.finding(file, str(error).rstrip("."), "remove it from the folder")
            self._read += size

    def _file(self, path: Path, file: str, size: int) -> Iterator[Row | Finding]:
        if size == 0:
            yield self.documents.finding(file, "the file is empty", "write it, or remove it", empty=True)
            return
        source = Bytes(path, self._limits)
        try:
            text = open_text(source, self._encoding)
            if text.start(self._limits.max_row_mb * MIB):
                yield from self.documents.rows(text, file)
            else:
                reason = "the file contains only white space"
                yield self.documents.finding(file, reason, "write it, or remove it", empty=True)
        finally:
            source.close()


def open_text(source: Bytes, encoding: str) -> Text:
    """The text of a file; raises BadInput when it is of another type."""
    head = source.head()
    file_types.refuse_binary(source.name, head)
    file_types.refuse_noise(source.name, head, encoding)
    return Text(source, encoding)


def _list(folder: Path, name: str, limits: Limits) -> _Listing:
    files: list[Path] = []
    data: list[str] = []
    others = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for item in sorted(item for item in names if not item.startswith(".")):
            path = Path(place, item)
            if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink():
                files.append(path)
            elif path.suffix.lower() in _DATA:
                data.append(path.relative_to(folder).as_posix())
            else:
                others += 1
            if len(files) + others > limits.max_rows:
                raise BadInput(f"{name} has more than {limits.max_rows:,} files ({limit('max_rows')}).")
    return _Listing(tuple(files), others, tuple(data))
