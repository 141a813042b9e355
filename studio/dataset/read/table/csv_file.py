"""Reader for csv and tsv, record by record."""

import csv
import re
from collections.abc import Iterator

from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.names import column_name
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB
from studio.dataset.read.strict import check_row, named, too_long, unreadable
from studio.dataset.read.table.dialect import LINE_END, Dialect, delimiter_of, find_dialect, sample_records
from studio.dataset.read.table.header import is_count, is_unnamed, looks_like_data, only_counts
from studio.dataset.read.text.decoding import Text
from studio.errors import BadInput

_CHECK = "check the quotes and separators of this record"
# Cells of the first row in a question about it.
_SHOWN = 6


# The lines of a very long record are joined after this many: each Python string has a fixed overhead.
_HELD = 4096


class _Lines:
    """Iterator over the lines of a text for csv.reader that keeps the lines of the current record.

    first: line number at which the record starts.
    """

    def __init__(self, table: "Table", text: Text) -> None:
        self._lines = text.lines(LINE_END, table.limits.max_row_mb * MIB)
        self._table = table
        self._held: list[str] = []
        self._joined: list[str] = []
        self._length = 0
        self.count = 0
        self.first = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, whole = next(self._lines)
        self._held.append(line)
        self.count += 1
        if len(self._held) > _HELD:
            self._joined.append("".join(self._held))
            self._held.clear()
        self._length += len(line)
        if not whole or self._length > self._table.limits.max_row_mb * MIB:
            raise self._table.too_long()
        return line

    def begin(self) -> None:
        """Start a new record at the next line."""
        self._held.clear()
        self._joined.clear()
        self._length = 0
        self.first = self.count + 1

    def raw(self) -> str:
        """The text of the current record as in the file."""
        return "".join(self._joined) + "".join(self._held)


class Table:
    """A csv or tsv text: reads the header at once and the records in `rows`. Raises BadInput for an invalid header.

    header: whether the first record names the columns, None to detect it. columns: their names; without a header
    "column 1", "column 2" and so on. note: description of the dialect for people. question: what a person should
    confirm about the header, or "".
    """

    def __init__(
        self, name: str, text: Text, limits: Limits, delimiter: str, tab_first: bool, header: bool | None = None
    ) -> None:
        self.name = name
        self.limits = limits
        # A field may be as long as a record. The csv module's limit is global to the process, so it is only raised.
        csv.field_size_limit(max(csv.field_size_limit(), min((limits.max_row_mb + 1) * MIB, 2**31 - 1)))
        delimiter = delimiter_of(delimiter) if delimiter else _declared(text)
        self._number = 0
        self._lines = _Lines(self, text)
        start, whole = text.buffer[text.pos :], text.ended
        self._dialect = find_dialect(start, whole, delimiter, tab_first)
        self._reader = self._dialect.reader(self._lines)
        self.note = self._dialect.note
        self.question = ""
        first = self._next()
        if not first:
            raise BadInput(f"{name} contains only white space. It needs at least one example.")
        later = sample_records(self._dialect, start, whole)[1:]
        self.header = header if header is not None else not looks_like_data(first, later)
        self._held: tuple[list[str], str] | None = None
        self._passed_over = 0
        if self.header:
            self.columns = [cell.strip() for cell in first]
            self._pass_over(later)
            self._check_header()
            return
        self.columns = [column_name(place) for place in range(1, len(first) + 1)]
        self._held = first, self._lines.raw()
        self.note += ", without a header"
        if header is None:
            shown = ", ".join(f'"{named(cell)}"' for cell in first[:_SHOWN]) + (", …" if len(first) > _SHOWN else "")
            self.question = (
                f"it seems to have no header, its first row being {shown} (if these are the names of its columns, say "
                "so: on the command line with --header)"
            )

    def rows(self) -> Iterator[Row | Finding]:
        """Yield the records after the header. Blank lines are not records."""
        names, skip = self.columns, self._passed_over
        while True:
            self._number += 1
            cells, raw = self._held or (self._next(), "")
            if cells is None:
                return
            raw = raw or self._lines.raw()
            self._held = None
            if len(cells) != len(names) + skip:
                where = "where the header names" if self.header else "where the first row has"
                reason = f"{len(cells)} {'field' if len(cells) == 1 else 'fields'} {where} {len(names) + skip}"
                yield unreadable(self._number, reason, _CHECK, raw.rstrip("\r\n"))
                continue
            if skip:
                if bad := next((cell for cell in cells[:skip] if not is_count(cell)), None):
                    reason = f"the column has no name and only counts elsewhere, and here it is {named(bad)!r}"
                    fix = "give the column a name, or correct this cell"
                    yield unreadable(self._number, reason, fix, raw.rstrip("\r\n"), column_name(1))
                    continue
                cells = cells[skip:]
            if "\x00" in raw or 4 * len(raw) > self.limits.max_field_mb * MIB:
                if too_long(raw, self.limits.max_row_mb):
                    raise self.too_long()
                yield check_row(self._number, dict(zip(names, cells, strict=True)), self.limits, raw.rstrip("\r\n"))
            else:
                yield Row(self._number, dict(zip(names, cells, strict=True)))

    def _pass_over(self, later: list[list[str]]) -> None:
        """Leave out leading columns without a name that only count, as pandas writes them; name any other."""
        columns = self.columns
        while len(columns) > self._passed_over + 1 and is_unnamed(columns[self._passed_over]):
            place = self._passed_over
            cells = [row[place] for row in later if len(row) == len(columns)]
            if (place and not columns[place]) or not only_counts(cells):
                break
            self._passed_over += 1
        if self._passed_over:
            self.note += ", without its first column, which only counts"
            self.columns = columns[self._passed_over :]
        elif not columns[0] and later:
            self.columns[0] = next(name for name in (column_name(1), "column 1 (2)") if name not in columns)

    def too_long(self) -> BadInput:
        """The error for a record longer than the limit, usually one with an unclosed quote."""
        quoted = self._open_quote().replace("It", "A quote", 1)
        return BadInput(
            f"{self.name}: {self._which()}, which begins on line {self._lines.first:,}, is longer than "
            f"{self.limits.max_row_mb} MiB ({limit('max_row_mb')}).{quoted} Shorten it, or close its quotes."
        )

    def _next(self) -> list[str] | None:
        """The next record that is not an empty line, or None at the end."""
        while True:
            self._lines.begin()
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                raise self._broken(error) from None
            if cells is None or len(cells) > 1 or self._lines.raw().strip():
                return cells

    def _which(self) -> str:
        return f"record {self._number:,}" if self._number else "the header"

    def _broken(self, error: csv.Error) -> BadInput:
        line = self._lines.count
        where = f"{self.name}, {self._which()}"
        if "unexpected end" in str(error):
            return BadInput(f"{where}: a quote is never closed.{self._open_quote()} Close it and try again.")
        if "expected after" in str(error):
            message = f"{where}, line {line:,}: text follows a quoted text.{self._open_quote()}"
            return BadInput(f'{message} Double the quotes inside a quoted text (""), and check that all are closed.')
        return BadInput(f"{where}, line {line:,}: {error}. Check the quotes near this line.")

    def _open_quote(self) -> str:
        """A sentence that names the line where the record's last quote was opened; "" if it has none."""
        line = _quote_line(self._lines.raw(), self._dialect)
        return f" It was opened on line {self._lines.first + line:,}." if line is not None else ""

    def _check_header(self) -> None:
        header = self.columns
        seen: set[str] = set()
        twice = [name for name in header if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        if "" in header:
            place = header.index("") + 1 + self._passed_over
            raise BadInput(
                f"{self.name}: column {place} of the header has no name. Give every column a name, or, if the first "
                "row is an example, say so (on the command line: --no-header)."
            )
        if twice:
            raise BadInput(
                f"{self.name}: the column {twice[0][:80]!r} appears twice in the header. Rename one of them, or, if "
                "the first row is an example, say so (on the command line: --no-header)."
            )
        for place, column in enumerate(header, start=1 + self._passed_over):
            if "\x00" in column:
                raise BadInput(f"{self.name}: the name of column {place} contains a NUL character. Remove it.")
            if too_long(column, self.limits.max_field_mb):
                raise BadInput(
                    f"{self.name}: the name of column {place} is longer than {self.limits.max_field_mb} MiB "
                    f"({limit('max_field_mb')}). Check the quotes of the header."
                )


def _declared(text: Text) -> str:
    """The separator declared by a first line such as `sep=;`, as Excel writes it; consumes that line."""
    start = text.buffer[text.pos : text.pos + 7]
    if start[:4].lower() == "sep=" and len(start) > 5 and start[5] in "\r\n" and not start[4].isalnum():
        text.pos += 7 if start[5:7] == "\r\n" else 6
        return delimiter_of(start[4])
    return ""


def _quote_line(record: str, dialect: Dialect) -> int | None:
    """Line, from 0, of the quote that is still open at the end of a record, or of the last one if all are closed.

    None if there are no quotes. Follows the rules of the csv module.
    """
    quote, separator = re.escape(dialect.quote), re.escape(dialect.delimiter)
    if not quote:
        return None
    escaped = r"\\.|" if dialect.backslash else ""
    inside = re.compile(f"{escaped}{quote}", re.DOTALL)
    outside = re.compile(rf"{escaped}{quote}|{separator}|\r\n|\n|\r", re.DOTALL)
    place = after = 0
    last = closed = -1
    is_open = False
    while match := (inside if is_open else outside).search(record, place):
        place = match.end()
        if match[0][0] == "\\" and dialect.backslash:
            continue
        if is_open:
            is_open, closed = False, place
        elif match[0] != dialect.quote:
            # A separator or the end of a line: a quoted text may start here.
            after = place
        elif match.start() == closed:
            # A doubled quote inside a quoted text closes and reopens it.
            is_open = True
        elif not record[after : match.start()].strip(" " if dialect.spaced else "\0"):
            is_open, last = True, match.start()
    return sum(1 for _ in LINE_END.finditer(record, 0, last)) if last >= 0 else None
