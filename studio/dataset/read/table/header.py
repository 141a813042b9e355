"""Whether the first record of a table names its columns, and whether a column without a name only counts."""

import re
from collections.abc import Sequence

from studio.dataset.read.names import COLUMNS

# Names that pandas gives to columns without one, and names as programs write them.
_UNNAMED = re.compile(r"Unnamed: \d+")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)+|[a-z]+[A-Z][A-Za-z0-9]*")
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)*%?|\d{4}-\d\d-\d\d([T ][\d:.+Z-]*)?")
_YEAR = re.compile(r"(19|20)\d\d")
_ENDS = ".?!。？！"
# A sentence has at least this many words, or characters where a script writes no spaces.
_WORDS, _CHARACTERS = 3, 4
_LONG = 60
_LOOKED_AT = 50


def looks_like_data(first: Sequence[str], later: Sequence[Sequence[str]]) -> bool:
    """Whether the first record of a table is an example like the later ones, rather than the names of its columns.

    Only where that is plain: one of its cells is a sentence or a number as in most later records, or occurs again in
    its column. Never where a cell is a usual name of a column.
    """
    header = [cell.strip() for cell in first]
    if any(_is_name(cell) for cell in header) or not header[0] or header == list(later[0] if later else ()):
        return False
    rows = [[cell.strip() for cell in row] for row in later[:_LOOKED_AT] if len(row) == len(header)]
    # The same record again is a header that was copied together with its rows.
    if not rows or header in rows:
        return False
    counted = any(header == [str(start + place) for place in range(len(header))] for start in (0, 1))
    return any(
        _alike(cell, [row[place] for row in rows], numbers=not counted) for place, cell in enumerate(header) if cell
    )


def is_unnamed(name: str) -> bool:
    """Whether a header's cell is no name: empty, or the one that pandas writes for it."""
    return not name or _UNNAMED.fullmatch(name) is not None


def only_counts(cells: Sequence[str]) -> bool:
    """Whether cells only number the rows, each by another number."""
    return bool(cells) and all(map(is_count, cells)) and len(set(cells)) == len(cells)


def is_count(cell: str) -> bool:
    """Whether a cell is a whole number."""
    return cell.isascii() and cell.strip().isdecimal()


def _is_name(cell: str) -> bool:
    return cell.lower() in COLUMNS or bool(_UNNAMED.fullmatch(cell)) or bool(_IDENTIFIER.fullmatch(cell))


def _alike(cell: str, column: Sequence[str], numbers: bool) -> bool:
    """Whether a cell is of the same kind as those below it, a kind that no column's name has."""
    if kind := _kind(cell):
        return 2 * sum(_kind(other) == kind for other in column) >= len(column)
    if _NUMBER.fullmatch(cell):
        return numbers and not _YEAR.fullmatch(cell) and all(_NUMBER.fullmatch(other) for other in column)
    return len(column) > 1 and len(cell) > 1 and cell in column


def _kind(cell: str) -> str:
    """How a sentence ends, "long" for other long texts, "" for the rest."""
    if cell[-1:] in _ENDS and (len(cell.split()) >= _WORDS or (not cell.isascii() and len(cell) >= _CHARACTERS)):
        return cell[-1]
    return "long" if len(cell) > _LONG and len(cell.split()) >= _WORDS else ""
