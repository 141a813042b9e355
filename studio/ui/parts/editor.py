"""A small editor for one example, with a text area for each field or turn."""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from markupsafe import Markup

from studio.errors import BadInput
from studio.ui.parts import markup
from studio.ui.parts.templates import render

REVISING = "Making a new version"
# A click on a button sends its data-… attributes and the contents of all text areas as a Gradio click event.
_SAVE = """
element.addEventListener('click', (event) => {
  const hit = event.target.closest('[data-pick]');
  if (!hit) return;
  const areas = [...element.querySelectorAll('textarea')];
  trigger('click', {...hit.dataset, typed: JSON.stringify(areas.map((area) => [area.name, area.value]))});
});
"""


def build() -> gr.HTML:
    """The editor's component, empty until an example is opened."""
    return gr.HTML(elem_id="editor", js_on_load=_SAVE, apply_default_css=False)


def form(example: int, values: Mapping[str, Any]) -> Markup:
    """The editable fields of an example."""
    if "messages" in values:
        turns = [(f"{at}.{turn['role']}", turn["role"], turn["content"]) for at, turn in enumerate(values["messages"])]
    else:
        turns = [(name, name, str(text)) for name, text in values.items()]
    fields = [{"name": name, "label": label, "text": text, "height": _height(text)} for name, label, text in turns]
    return render("editor.html", example=example, fields=fields, kept=_kept(values))


def _kept(values: Mapping[str, Any]) -> list[str]:
    """What an example of messages has beyond the texts that can be edited."""
    if "messages" not in values:
        return []
    keys = dict.fromkeys(key for turn in values["messages"] for key in turn if key not in ("role", "content"))
    return [*keys, *(name for name in values if name != "messages")]


def _height(text: str) -> int:
    return max(2, min(12, text.count("\n") + len(text) // 90 + 1))


def typed(text: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the editor's contents into the values of a row. values: the row as it was; other keys are kept."""
    try:
        pairs = [(str(name), str(value)) for name, value in json.loads(text)]
    except (ValueError, TypeError):
        raise BadInput("The editor's contents could not be read. Reload the page and edit again.") from None
    if "messages" not in values:
        return dict(pairs)
    if len(pairs) != len(values["messages"]):
        raise BadInput("The example has changed since it was opened. Close the editor and open it again.")
    turns = [{**turn, "content": text} for turn, (_, text) in zip(values["messages"], pairs, strict=True)]
    return {**values, "messages": turns}


def saved(name: str, changes: str) -> str:
    """Confirm a new version, and that the previous one is unchanged."""
    return markup.note(f"{name} is a new version: {changes}. The previous version is unchanged.", "good")
