"""Building blocks of the command line's output: lines and tables for people, JSON for programs, progress.

On a terminal rich draws them, within the width of the window (terminal.py and bar.py, which are imported only there).
Everywhere else they are plain text: one line per row, no escape codes, nothing cut to a width. Control characters in
texts are replaced in both.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from string import Formatter
from typing import Any, TextIO

from studio.services.chat.comparisons import clean_text

# A text, or a text and its style on a terminal (terminal.py lists the styles).
Part = str | tuple[str, str]
Report = Callable[[str, int, int], None]
_LONGEST = 60  # of a cell in plain text
_BREAKS = str.maketrans("\n\t", "  ")


def on_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor and show every character."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    return (stream.encoding or "").lower().startswith("utf")


def clean(text: str) -> str:
    """A text that can be printed: control characters other than tabs and line ends are replaced by visible ones."""
    return clean_text(text.replace("\r\n", "\n"))


def clean_line(text: str) -> str:
    """A text for one line: `clean`, with spaces for tabs and line ends."""
    return clean(text).translate(_BREAKS)


def show_json(value: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def show(info: Any, words: str, as_json: bool, extra: dict[str, Any] | None = None) -> None:
    """Print one item: its JSON (with `extra`), or the sentence `words`."""
    if as_json:
        show_json(asdict(info) | (extra or {}))
    else:
        say(words)


def say(*parts: Part, err: bool = False) -> None:
    """Print a line made of parts; err: to stderr."""
    stream = sys.stderr if err else sys.stdout
    cleaned = [_clean_part(part, clean) for part in parts]
    if any(isinstance(part, tuple) for part in parts) and on_terminal(stream):
        from studio.cli import terminal

        terminal.line(stream, cleaned)
    else:
        print("".join(map(_words, cleaned)), file=stream)


def heading(text: str) -> None:
    """Print a heading."""
    say((text, "heading"))


def grid(rows: Sequence[Sequence[Part]], form: str, err: bool = False) -> None:
    """Print rows without headings. form: the plain form of a row; a field with > is right-aligned."""
    stream = sys.stderr if err else sys.stdout
    cleaned = [[_clean_part(part, clean_line) for part in row] for row in rows]
    if rows and on_terminal(stream):
        from studio.cli import terminal

        fields = [(before, spec or "") for before, name, spec, _ in Formatter().parse(form) if name is not None]
        terminal.grid(stream, cleaned, [">" in spec for _, spec in fields], indent=len(fields[0][0]))
        return
    for row in cleaned:
        print(form.format(*map(_words, row)).rstrip(), file=stream)


def table(items: Sequence[Any], columns: Sequence[str], as_json: bool, name: str) -> None:
    """Print items as a table with these columns, or as JSON under the key `name`."""
    rows = [asdict(item) for item in items]
    if as_json:
        show_json({name: rows})
    elif not rows:
        print(f"No {name} yet.")
    elif on_terminal(sys.stdout):
        from studio.cli import terminal

        values = {column: [row[column] for row in rows] for column in columns}
        cells = {column: [clean_line(_text(value)) for value in these] for column, these in values.items()}
        terminal.table(sys.stdout, cells, [column for column, these in values.items() if _are_numbers(these)])
    else:
        # Not by rich, which takes a thousand times as long.
        lines = [list(columns)] + [[clean_line(cell(row[column])) for column in columns] for row in rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    """A value as a cell in plain text, at most 60 characters of a text."""
    text = str(value) if isinstance(value, dict) else _text(value)
    return text if len(text) <= _LONGEST or isinstance(value, (float, list, tuple)) else text[: _LONGEST - 3] + "..."


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, (int, float)) for value in values)


def _words(part: Part) -> str:
    return part if isinstance(part, str) else part[0]


def _clean_part(part: Part, cleaned: Callable[[str], str]) -> Part:
    return cleaned(part) if isinstance(part, str) else (cleaned(part[0]), part[1])


@contextlib.contextmanager
def progress(quiet: bool, watched: bool = False) -> Iterator[Report]:
    """A progress(what, done, of) callback that shows a bar on a terminal, and elsewhere writes each `what` to stderr.

    quiet: write nothing; watched: only on a terminal.
    """
    terminal = on_terminal(sys.stderr)
    if quiet or (watched and not terminal):
        yield lambda what, done, of: None
    elif terminal:
        from studio.cli.bar import Bar

        with Bar(sys.stderr) as bar:
            yield lambda what, done, of: bar.update(clean_line(what), done, of, _amount(done, of)) if what else None
    else:
        last = ""

        def report(what: str, done: int, of: int) -> None:
            nonlocal last
            if what and what != last:
                say(what, err=True)
                sys.stderr.flush()
                last = what

        yield report


def _amount(done: int, of: int) -> str:
    """How far something is: MiB if it is that large, else a percentage."""
    if of > 10**6 or (not of and done > 10**6):
        return f"{done / 2**20:.0f}" + (f" of {of / 2**20:.0f} MiB" if of else " MiB")
    return f"{done / of:.0%}" if of else ""
