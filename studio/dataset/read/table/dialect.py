"""Detect the dialect of a csv or tsv file: its separator and quoting."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from studio.errors import BadInput

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}
LINE_END = re.compile(r"\r\n|\n|\r")
_WORDS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "bar": "|", "space": " "}
_SAMPLE = 2**18
_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Dialect:
    """Separator and quoting of fields.

    quote: "" for none. backslash: a quote inside quotes is written \\" (or doubled). spaced: spaces between a separator
    and a quote are ignored.
    """

    delimiter: str = ","
    quote: str = '"'
    backslash: bool = False
    spaced: bool = False

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yield the records of the lines. Raises csv.Error where the quotes are wrong."""
        return csv.reader(
            map(_keep_backslashes, lines) if self.backslash else lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar="\\" if self.backslash else None,
            skipinitialspace=self.spaced,
            strict=True,
        )

    @property
    def note(self) -> str:
        text = f"separated by {SEPARATORS.get(self.delimiter, repr(self.delimiter))}"
        if not self.quote:
            text += ", quotes are text"
        elif self.quote == "'":
            text += ", quoted with single quotes"
        return text + (', quotes written \\"' if self.backslash else "")


def _keep_backslashes(line: str) -> str:
    """Double each backslash that precedes neither a quote nor a backslash: it is text, as in C:\\new."""
    return re.sub(r"""\\(["'\\])?""", lambda match: match[0] if match[1] else "\\\\", line) if "\\" in line else line


def delimiter_of(given: str) -> str:
    """The separator given by the user, as one character. Raises BadInput for anything else."""
    mark = _WORDS.get(given.lower(), given)
    if len(mark) != 1 or mark in "\"'\r\n\\\0" or mark.isalnum():
        raise BadInput(
            f"{given!r} cannot separate fields. Use one character, or one of comma, semicolon, tab and pipe."
        )
    return mark


def find_dialect(sample: str, whole: bool, delimiter: str, tab_first: bool) -> Dialect:
    """The dialect in which most records of the sample have as many fields as the header.

    sample: the start of the file; whole: whether it is the whole file. delimiter: given by the user, or "".
    """
    lines = _sample_lines(sample, whole)
    sample = "".join(lines)
    marks = [delimiter] if delimiter else ["\t", ",", ";", "|"] if tab_first else [",", ";", "\t", "|"]
    return max((_quoting(Dialect(mark), sample, lines) for mark in marks), key=lambda dialect: _score(dialect, lines))


def sample_records(dialect: Dialect, sample: str, whole: bool) -> list[list[str]]:
    """The records of the start of a file, as far as they are whole. whole: whether the sample is the whole file."""
    records: list[list[str]] = []
    try:
        for cells in dialect.reader(iter(_sample_lines(sample, whole))):
            if len(cells) > 1 or "".join(cells).strip():
                records.append(cells)
            if len(records) >= _RECORDS:
                break
    except csv.Error:
        pass
    return records


def _sample_lines(sample: str, whole: bool) -> list[str]:
    sample = sample[:_SAMPLE] if whole and len(sample) <= _SAMPLE else _full_lines(sample[:_SAMPLE])
    # str.splitlines would also split at characters that csv treats as text.
    return re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", sample)


def _full_lines(sample: str) -> str:
    ends = [match.end() for match in LINE_END.finditer(sample)]
    return sample[: ends[-1]] if ends else sample


def _quoting(plain: Dialect, sample: str, lines: list[str]) -> Dialect:
    """The best quoting for this separator. Anything but plain double quotes must score higher on the sample."""
    mark = re.escape(plain.delimiter)
    others = []
    if '\\"' in sample:
        others.append(replace(plain, backslash=True))
    if re.search(mark + ' +"', sample) and plain.delimiter != " ":
        others += [replace(dialect, spaced=True) for dialect in (plain, *others)]
    single = len(re.findall(rf"(?:^|{mark})'(?:[^'\r\n]|'')*'(?={mark}|$)", sample, re.MULTILINE))
    double = len(re.findall(rf'(?:^|{mark})"(?:[^"\r\n]|"")*"(?={mark}|$)', sample, re.MULTILINE))
    if single > double:
        others.append(replace(plain, quote="'"))
        if "\\'" in sample:
            others.append(replace(plain, quote="'", backslash=True))
        if lines and re.match(rf"\s*'[^']*'{mark}", lines[0]):
            plain = others.pop(-2 if "\\'" in sample else -1)
    if plain.delimiter == "\t" and not double:
        others.append(replace(plain, quote=""))
    # max returns the first of equal candidates.
    return max([plain, *others], key=lambda dialect: _score(dialect, lines)[0])


def _score(dialect: Dialect, lines: list[str]) -> tuple[float, int]:
    """Share of the records with as many fields as the header, and the number of columns.

    Zero for a single column, which is what any separator that does not occur would give.
    """
    reader = dialect.reader(iter(lines))
    columns = good = bad = 0
    used = 0
    try:
        for cells in reader:
            used = reader.line_num  # type: ignore[attr-defined]
            if len(cells) < 2 and not "".join(cells).strip():
                continue
            columns = columns or len(cells)
            good, bad = (good + 1, bad) if len(cells) == columns else (good, bad + 1)
            if good + bad >= _RECORDS:
                break
    except csv.Error:
        bad += len(lines) - used
    return (good / (good + bad), columns) if columns > 1 else (0.0, 0)
