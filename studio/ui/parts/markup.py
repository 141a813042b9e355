"""HTML helpers that several tabs share.

All text from people, files or models passes through `esc` before it reaches a page. Functions here take plain values
and return strings; they do not depend on services or Gradio.
"""

import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from studio.ui.parts.templates import macro

# A click on a data-pick element inside the component becomes a Gradio click event that carries its data-… attributes.
PICK = """
element.addEventListener('click', (event) => {
  const hit = event.target.closest('[data-pick]');
  if (hit && !hit.disabled) trigger('click', {...hit.dataset});
});
"""


def name_of(text: str) -> str:
    """A short hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def esc(value: Any) -> str:
    """Escape a value for HTML."""
    return escape(str(value), quote=True)


def flat(text: object, most: int = 600) -> str:
    """Escape a text and collapse its whitespace, cut after `most` characters."""
    words = " ".join(str(text)[: 2 * most].split())
    return esc(words if len(words) <= most else words[:most] + " …")


def mark(state: str, word: str = "") -> str:
    """A state as an icon and a word; colour only repeats what both say."""
    return _part("mark", state, word)


def verdict_badge(verdict: str) -> str:
    """A verdict (good, warn, bad) as an icon and a word."""
    return _part("verdict_badge", verdict)


def progress(done: float, total: float, label: str) -> str:
    """A progress bar, with its share for screen readers."""
    return _part("progress", done, total, label)


def doing(what: str, done: int = 0, of: int = 0) -> str:
    """The current step of a longer task and its progress; without a known total, an endless bar."""
    return _part("doing", what, done, of)


def problem(message: object, remedy: str = "") -> str:
    """What went wrong and what to do about it, in a box."""
    return _part("problem", message, remedy)


def note(message: object, kind: str = "plain") -> str:
    """A sentence in a box. kind: plain, good, warn or bad."""
    return _part("note", message, kind)


def empty(title: str, text: str) -> str:
    """The message of an empty page; the button for the next step follows it."""
    return _part("empty", title, text)


def when(moment: float | None) -> str:
    """A relative time that shows the exact one on hover."""
    return _part("when", moment)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Figures with their names below; values are already HTML."""
    return _part("facts", [(name, Markup(value)) for name, value in pairs])  # noqa: S704


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, kind: str = "") -> str:
    """A table whose cells are already HTML; `caption` is for screen readers."""
    cells = [[Markup(cell) for cell in row] for row in rows]  # noqa: S704
    return _part("table", heads, cells, caption, kind)


def pager(total: int, offset: int, page: int, name: str) -> str:
    """Buttons for the previous and next page, as clicks with data-offset."""
    return _part("pager", total, offset, page, name)


def code(text: str, label: str) -> str:
    """A block of monospaced text with a Copy button."""
    return _part("code", text, label)


def step(number: int, title: str, text: str) -> str:
    """The heading of one of several numbered steps."""
    return _part("step", number, title, text)


def heading(title: str, text: str = "") -> str:
    """A section's title and one sentence below it."""
    return _part("heading", title, text)


def _part(name: str, *args: Any) -> str:
    return str(macro("parts.html", name, *args))
