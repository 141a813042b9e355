"""Lines and tables on a terminal, drawn by rich.

Every text becomes a `Text`, which rich never reads as markup; control characters were replaced before (output.clean). A
style is named after the word it colours, so colour only repeats what the words say.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

Part = str | tuple[str, str]
_STYLES = {
    **dict.fromkeys(("completed", "better", "good"), "green"),
    **dict.fromkeys(("failed", "interrupted", "worse", "bad"), "red"),
    **dict.fromkeys(("stopped", "stalled", "warn"), "yellow"),
    **dict.fromkeys(("starting", "running", "stopping", "alive"), "cyan"),
    **{"heading": "bold", "note": "dim"},
}
_FOLDED = ("message", "path")  # useless when cut: folded onto more lines instead
_MINOR = ("position", "cause", "tags", "bytes", "about")  # left out before the others
_GAP = 2
_LEAST, _LEAST_FOLDED, _LONGEST_ID = 12, 16, 24
_BATCH = 100  # rich takes a millisecond per row: a long table appears from its first rows on


def console(stream: TextIO) -> Console:
    """A console that prints texts as they are: no markup, no emoji names, no highlighting."""
    theme = Theme(_STYLES)
    return Console(file=stream, force_terminal=True, theme=theme, markup=False, emoji=False, highlight=False)


def line(stream: TextIO, parts: Sequence[Part]) -> None:
    """Print one line of texts and (text, style) pairs; the terminal wraps it."""
    console(stream).print(Text.assemble(*parts), soft_wrap=True)


def grid(stream: TextIO, rows: Sequence[Sequence[Part]], rights: Sequence[bool], indent: int) -> None:
    """Print rows in aligned columns; the last column is folded. rights: which columns are right-aligned."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    for number, right in enumerate(rights, 1):
        last = number == len(rights)
        table.add_column(
            justify="right" if right else "left", no_wrap=not last, overflow="fold" if last else "ellipsis"
        )
    for row in rows:
        table.add_row(*(Text.assemble(part) for part in row))
    console(stream).print(Padding(table, (0, 0, 0, indent), expand=False))


def table(stream: TextIO, cells: Mapping[str, Sequence[str]], numbers: Collection[str]) -> None:
    """Print named columns within the width of the window, those in `numbers` right-aligned.

    If they do not fit, long texts are cut or folded, then columns are left out: first those without values, then minor
    ones, then the last ones. A line below the table names them.
    """
    screen = console(stream)
    every = [_column(name, column, name in numbers) for name, column in cells.items()]
    kept = _fit(every, screen.width)
    for start in range(0, len(every[0].cells), _BATCH):
        drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="heading")
        drawn.show_header = start == 0
        for column in kept:
            drawn.add_column(
                Text(column.heading), width=column.width, justify="right" if column.number else "left", overflow="fold"
            )
        for row in zip(*(column.cells[start : start + _BATCH] for column in kept), strict=True):
            drawn.add_row(*(column.text(cell) for column, cell in zip(kept, row, strict=True)))
        screen.print(drawn)
    if left_out := [column.heading for column in every if column not in kept]:
        note = f"Not shown for lack of room: {', '.join(left_out)}. A wider window or --json shows all."
        screen.print(Text(note, "note"))


@dataclass(slots=True, eq=False)
class _Column:
    """A column of a table. width: what it takes, at first as much as its longest cell; least: what it is cut to."""

    name: str
    heading: str
    cells: Sequence[str]
    number: bool
    width: int
    least: int

    @property
    def empty(self) -> bool:
        return all(cell in ("", "-", "0") for cell in self.cells)

    def text(self, cell: str) -> Text:
        if self.name in _FOLDED:
            return Text(cell)
        return Text(cell, cell if self.name == "state" else "", no_wrap=True, overflow="ellipsis")


def _column(name: str, cells: Sequence[str], number: bool) -> _Column:
    heading = name.replace("_", " ")
    longest = max(map(cell_len, cells))
    whole = number or name == "state" or (name == "id" and longest <= _LONGEST_ID)
    least = longest if whole else min(longest, _LEAST_FOLDED if name in _FOLDED else _LEAST)
    least = max(least, *map(cell_len, heading.split()))
    return _Column(name, heading, cells, number, max(longest, cell_len(heading)), least)


def _fit(columns: Sequence[_Column], room: int) -> list[_Column]:
    """The columns that fit, the widest narrowed first."""
    kept = list(columns)
    while len(kept) > 1 and sum(column.least + _GAP for column in kept) - _GAP > room:
        kept.remove(max(kept[1:], key=lambda column: (column.empty, column.name in _MINOR, kept.index(column))))
    for _ in range(sum(column.width + _GAP for column in kept) - _GAP - room):
        wide = [column for column in kept if column.width > column.least]
        if wide:
            max(wide, key=lambda column: column.width).width -= 1
    return kept
