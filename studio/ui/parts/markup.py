"""HTML helpers that several tabs share.

All text from people, files or models passes through `esc` before it reaches a page. Functions here take plain values
and return strings; they do not depend on services or Gradio.
"""

import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from studio.ui.parts import units

# A click on a data-pick element inside the component becomes a Gradio click event that carries its data-… attributes.
PICK = """
element.addEventListener('click', (event) => {
  const hit = event.target.closest('[data-pick]');
  if (hit && !hit.disabled) trigger('click', {...hit.dataset});
});
"""

_SHAPES = {
    "queued": '<circle cx="6" cy="6" r="4.2" fill="none" stroke-dasharray="2.2 2"/>',
    "starting": '<path d="M6 1.5a4.5 4.5 0 1 1-4.5 4.5" fill="none"/>',
    "running": '<circle cx="6" cy="6" r="4" fill="currentColor"/>',
    "stalled": '<path d="M6 1.4 11 10.4H1z" fill="none"/>',
    "stopping": '<rect x="2" y="2" width="8" height="8" rx="1" fill="none"/>',
    "stopped": '<rect x="2.4" y="2.4" width="7.2" height="7.2" rx="1" fill="currentColor"/>',
    "completed": '<path d="m2 6.4 2.7 2.8L10.2 3" fill="none"/>',
    "failed": '<path d="m2.6 2.6 6.8 6.8m0-6.8-6.8 6.8" fill="none"/>',
    "good": '<path d="m2 6.4 2.7 2.8L10.2 3" fill="none"/>',
    "warn": '<path d="M6 1.4 11 10.4H1zM6 5v2.4M6 8.7v.4" fill="none" stroke-width="1.3"/>',
    "bad": '<path d="m2.6 2.6 6.8 6.8m0-6.8-6.8 6.8" fill="none"/>',
    "interrupted": '<path d="M6 2a4 4 0 0 1 0 8z" fill="currentColor"/><circle cx="6" cy="6" r="4.2" fill="none"/>',
}


_VERDICTS = {"good": "ready", "warn": "look first", "bad": "fix first"}


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
    shape = _SHAPES.get(state, _SHAPES["queued"])
    return (
        f'<span class="state state-{esc(state)}"><svg viewBox="0 0 12 12" aria-hidden="true" '
        f'stroke="currentColor" stroke-width="1.6">{shape}</svg>{esc(word or state)}</span>'
    )


def verdict_badge(verdict: str) -> str:
    """A verdict (good, warn, bad) as an icon and a word."""
    return mark(verdict, _VERDICTS[verdict])


def progress(done: float, total: float, label: str) -> str:
    """A progress bar, with its share for screen readers."""
    share = min(1.0, done / total) if total else 0.0
    return (
        f'<span class="bar" role="progressbar" aria-label="{esc(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></span>'
    )


def doing(what: str, done: int = 0, of: int = 0) -> str:
    """The current step of a longer task and its progress; without a known total, an endless bar."""
    share = f" · {min(100, 100 * done // of)} %" if of else f" · {done:,}" if done else ""
    bar = progress(done, of, what) if of else '<span class="bar endless" aria-hidden="true"><i></i></span>'
    return f'<div class="arriving"><p class="doing" role="status">{esc(what)}{share}</p>{bar}</div>'


def problem(message: object, remedy: str = "") -> str:
    """What went wrong and what to do about it, in a box."""
    more = f"<p>{esc(remedy)}</p>" if remedy else ""
    return f'<div class="note note-bad" role="alert"><p>{esc(message)}</p>{more}</div>'


def note(message: object, kind: str = "plain") -> str:
    """A sentence in a box. kind: plain, good, warn or bad."""
    return f'<div class="note note-{kind}" role="status"><p>{esc(message)}</p></div>'


def empty(title: str, text: str) -> str:
    """The message of an empty page; the button for the next step follows it."""
    return f'<div class="empty"><h3>{esc(title)}</h3><p>{esc(text)}</p></div>'


def when(moment: float | None) -> str:
    """A relative time that shows the exact one on hover."""
    if moment is None:
        return "–"
    return f'<time title="{esc(units.exact(moment))}">{esc(units.ago(moment))}</time>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Figures with their names below; values are already HTML."""
    cells = "".join(f"<div><dd>{value}</dd><dt>{esc(name)}</dt></div>" for name, value in pairs)
    return f'<dl class="facts">{cells}</dl>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, kind: str = "") -> str:
    """A table whose cells are already HTML; `caption` is for screen readers."""
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table class="table {kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pager(total: int, offset: int, page: int, name: str) -> str:
    """Buttons for the previous and next page, as clicks with data-offset."""
    if total <= page:
        return ""
    last = min(total, offset + page)
    return (
        f'<nav class="pager" aria-label="Pages of {esc(name)}">'
        f'<button type="button" data-pick data-offset="{max(0, offset - page)}" {"disabled" if offset == 0 else ""}>'
        f"Previous</button><span>{offset + 1:,} to {last:,} of {total:,}</span>"
        f'<button type="button" data-pick data-offset="{offset + page}" {"disabled" if last >= total else ""}>'
        f"Next</button></nav>"
    )


def code(text: str, label: str) -> str:
    """A block of monospaced text with a Copy button."""
    return (
        f'<div class="code"><button type="button" class="copy" data-copy aria-label="Copy {esc(label)}">Copy</button>'
        f'<pre tabindex="0" aria-label="{esc(label)}">{esc(text)}</pre></div>'
    )


def step(number: int, title: str, text: str) -> str:
    """The heading of one of several numbered steps."""
    place = f'<span aria-hidden="true">{number}</span>'
    return f'<div class="heading step"><h2>{place}{esc(title)}</h2><p>{esc(text)}</p></div>'


def heading(title: str, text: str = "") -> str:
    """A section's title and one sentence below it."""
    more = f"<p>{esc(text)}</p>" if text else ""
    return f'<div class="heading"><h2>{esc(title)}</h2>{more}</div>'
