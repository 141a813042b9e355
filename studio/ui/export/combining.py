"""Combining adapters on the Export page: two or three adapters, weights and a method; results are listed below."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.services.core.studio import Studio
from studio.services.models import adapters, combining, trained_weights
from studio.ui.export import view as exports_view
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates, view, with_notice

_METHODS = [(f"{name}: {why}{', equal ranks only' if equal else ''}", name)
            for name, (why, equal) in combining.METHODS.items()]  # fmt: skip


@dataclass(frozen=True)
class CombineBox:
    """The components the page needs.

    who: the dropdowns, set when the page is reopened; store: the list of adapters, whose data-ask clicks the page
    handles.
    """

    who: list[gr.Dropdown]
    store: gr.HTML


def build(studio: Studio) -> CombineBox:
    """Build the box and wire its events."""
    with gr.Column(elem_id="combine"):
        view(
            "",
            markup.heading(
                "Combine adapters",
                "Combine two or three adapters of the same base model into a new one, by weight. It is a draft until "
                "you keep it: try it in Compare, evaluate it, export it.",
            ),
        )
        who: list[gr.Dropdown] = []
        weights: list[gr.Number] = []
        for number, label in enumerate(("First", "Second", "Third")):
            with gr.Row(elem_classes="combine-row"):
                who.append(gr.Dropdown([], label=label, elem_id=f"combine-{number}", filterable=False, scale=4))
                weights.append(
                    gr.Number(0.5, label="Weight", elem_id=f"combine-weight-{number}", step=0.1, scale=1, min_width=90)
                )
        with gr.Row(elem_classes="combine-row"):
            method = gr.Dropdown(_METHODS, value="cat", label="Method", elem_id="combine-method", scale=3,
                                 min_width=240, filterable=False)  # fmt: skip
            density = gr.Slider(
                0.05, 1, 0.5, step=0.05, label="Density", info="Share of the weights that ties, dare and prune keep.",
                elem_id="combine-density", scale=2, min_width=240,
            )  # fmt: skip
        name = gr.Textbox(label="Name", elem_id="combine-name", placeholder="first + second", max_length=80)
        notice = view("combine-notice")
        button = gr.Button("Combine", variant="primary", elem_id="combine-go")
    store = view("adapters-store", picks=True)

    def begin(how: str, share: float, called: str, *values: Any) -> Updates:
        chosen, numbers = values[:3], values[3:]
        pairs = [(key, number) for key, number in zip(chosen, numbers, strict=True) if key]
        combining.start(
            studio,
            combining.CombineRequest(
                tuple(key for key, _ in pairs), tuple(float(number or 0) for _, number in pairs), how,
                share if combining.wants_density(how) else None, called or "", draft=True,
            ),
        )  # fmt: skip
        return {name: "", **listed(studio, store)}

    def pick(event: gr.EventData) -> Updates:
        if hasattr(event, "keep"):
            adapters.keep(studio, event.keep)
        elif hasattr(event, "delete"):
            adapters.remove(studio, event.delete)
        elif hasattr(event, "cancel"):
            adapters.cancel(studio, event.cancel)
        return listed(studio, store)

    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    button.click(
        with_notice(studio, notice, begin), [method, density, name, *who, *weights], [notice, name, store],
        concurrency_limit=2, **quiet,
    )  # fmt: skip
    store.click(with_notice(studio, notice, pick), None, [notice, store], queue=False, **quiet)
    return CombineBox(who, store)


def listed(studio: Studio, store: gr.HTML) -> Updates:
    """The list of adapters. Always sent, so that the next update corrects one undone by a late answer."""
    return {store: exports_view.adapters(adapters.list_adapters(studio))}


def choices(studio: Studio, who: list[gr.Dropdown], chosen: tuple[str | None, ...]) -> Updates:
    """The adapters that can be combined; a selection stays while it is available."""
    options = trained_weights.choices(studio)
    keys = [key for _, key in options]
    selected = [key if key in keys else None for key in chosen]
    for place in (0, 1):
        free = next((key for key in keys if "@" not in key and key not in selected), None)
        selected[place] = selected[place] or free
    updates: Updates = {}
    for place, part in enumerate(who):
        value = selected[place] or (None if place < 2 else "")
        # An unchanged value is not sent again: the user may have chosen another meanwhile.
        keep = {} if place < len(chosen) and chosen[place] and value == chosen[place] else {"value": value}
        updates[part] = gr.update(choices=options if place < 2 else [("None", ""), *options], **keep)
    return updates
