"""Pieces of HTML that several tabs show by themselves: the macros of templates/parts.html as functions.

They take plain values, which are escaped, and do not depend on services or Gradio.
"""

import hashlib
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


def doing(what: str, done: int = 0, of: int = 0) -> Markup:
    """The current step of a longer task and its progress; without a known total, an endless bar."""
    return _part("doing", what, done, of)


def problem(message: object, remedy: str = "") -> Markup:
    """What went wrong and what to do about it, in a box."""
    return _part("problem", message, remedy)


def note(message: object, kind: str = "plain") -> Markup:
    """A sentence in a box. kind: plain, good, warn or bad."""
    return _part("note", message, kind)


def empty(title: str, text: str) -> Markup:
    """The message of an empty page; the button for the next step follows it."""
    return _part("empty", title, text)


def code(text: str, label: str) -> Markup:
    """A block of monospaced text with a Copy button."""
    return _part("code", text, label)


def step(number: int, title: str, text: str) -> Markup:
    """The heading of one of several numbered steps."""
    return _part("step", number, title, text)


def heading(title: str, text: str = "") -> Markup:
    """A section's title and one sentence below it."""
    return _part("heading", title, text)


def _part(name: str, *args: Any) -> Markup:
    return macro("parts.html", name, *args)
