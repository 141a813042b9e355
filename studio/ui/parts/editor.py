"""A small editor for one example, with a text area for each field or turn."""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.ui.parts import markup
from studio.ui.parts.markup import esc

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


def form(example: int, values: Mapping[str, Any]) -> str:
    """The editable fields of an example."""
    if "messages" in values:
        turns = [(f"{at}.{turn['role']}", turn["role"], turn["content"]) for at, turn in enumerate(values["messages"])]
    else:
        turns = [(name, name, str(text)) for name, text in values.items()]
    areas = "".join(
        f'<label><span>{esc(label)}</span><textarea name="{esc(name)}" rows="{_height(text)}" spellcheck="false">'
        f"\n{esc(text)}</textarea></label>"
        for name, label, text in turns
    )
    return (
        f'<div class="editor" role="group" aria-label="Edit example {example}"><h3>Example {example:,}</h3>{areas}'
        f'<p><button type="button" class="plain-button lead" data-pick data-save="{example}">Save as a new version'
        f'</button><button type="button" class="plain-button" data-pick data-close="1">Close</button></p></div>'
    )


def _height(text: str) -> int:
    return max(2, min(12, text.count("\n") + len(text) // 90 + 1))


def typed(text: str) -> dict[str, Any]:
    """Parse the editor's contents into the values of a row."""
    try:
        pairs = [(str(name), str(value)) for name, value in json.loads(text)]
    except (ValueError, TypeError):
        raise BadInput("The editor's contents could not be read. Reload the page and edit again.") from None
    if pairs and pairs[0][0].partition(".")[0].isdecimal():
        return {"messages": [{"role": name.partition(".")[2], "content": value} for name, value in pairs]}
    return dict(pairs)


def saved(name: str, changes: str) -> str:
    """Confirm a new version, and that the previous one is unchanged."""
    return markup.note(f"{name} is a new version: {changes}. The previous version is unchanged.", "good")
