"""The Export tab: a run as adapter, merged model or GGUF; combined and imported adapters; publishing."""

import functools
from dataclasses import dataclass

import gradio as gr

from studio.services.core.studio import Studio
from studio.services.exports import exports, targets
from studio.services.exports.exports import ExportRequest
from studio.services.models import trained_weights
from studio.ui.export import combining as combining_view
from studio.ui.export import import_view, publish_view, reproduce_view
from studio.ui.export import view as exports_view
from studio.ui.export.view import OVER
from studio.ui.gradio_compat import once
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates, view, with_notice
from studio.ui.web import pulse

_NONE_YET = ("Nothing to export yet", "Once a run has an adapter, export it here.")
_BUTTONS = {"adapter": "Export adapter", "merged": "Export merged model", "gguf": "Export GGUF"}
_SHARDS = [("one file up to 5 GB", "5GB"), ("files of 2 GB", "2GB"), ("files of 500 MB", "500MB")]


@dataclass(frozen=True)
class ExportTab:
    """What other tabs need: the selected source, the step that shows the tab for it, and the list of adapters, whose
    data-ask clicks open Compare.
    """

    run: gr.Dropdown
    reopen: Step
    train: gr.Button
    store: gr.HTML


def build(studio: Studio, wanted: gr.State) -> ExportTab:
    """Build the tab's components and wire their events. wanted: the id of the run that is open in another tab."""
    waker = pulse.waker("export")
    cards: dict[str, gr.HTML] = {}
    buttons: dict[str, gr.Button] = {}
    with gr.Column(elem_id="no-export"):
        none_yet = view("no-export-yet")
        train = gr.Button("Go to Train", variant="primary", size="md", elem_id="export-go-train")
    with gr.Column(elem_id="export"):
        run = gr.Dropdown([], label="What to export", elem_id="export-run-choice", filterable=False)
        notice = view("export-notice")
        with gr.Row(elem_id="export-cards"):
            for kind, label in _BUTTONS.items():
                with gr.Column(elem_classes="card", min_width=260, elem_id=f"target-{kind}"):
                    cards[kind] = view(f"card-{kind}", picks=True)
                    if kind == "merged":
                        dtype = gr.Dropdown([("Same as the run", ""), *targets.DTYPES], value="", label="Type",
                                            elem_id="export-dtype", filterable=False)  # fmt: skip
                        shard = gr.Dropdown(_SHARDS, value="5GB", label="Files", elem_id="export-shard",
                                            filterable=False)  # fmt: skip
                    if kind == "gguf":
                        quant = gr.Dropdown(list(targets.QUANTS), value="Q8_0", label="Type", elem_id="export-quant",
                                            filterable=False)  # fmt: skip
                    buttons[kind] = gr.Button(label, variant="primary", elem_id=f"export-{kind}")
        done = view("exports-done", picks=True)
        publish_view.build(studio, done)
        reproduce_view.build(studio, run)
        box = combining_view.build(studio)
    import_box = import_view.build(studio)

    def reopen(chosen: str | None, wanted: str, *combined: str | None) -> Updates:
        """What can be exported, and the cards of the selected source."""
        options = [
            (label, key) for label, key in trained_weights.choices(studio) if not label.endswith("newest checkpoint")
        ]
        keys = [key for _, key in options]
        selected = next((key for key in (wanted, chosen) if key in keys), keys[0] if keys else None)
        if selected is None:
            no_cards = dict.fromkeys(cards.values(), "")
            empty = {none_yet: markup.empty(*_NONE_YET), run: gr.update(choices=[], value=None), **no_cards}
            return empty | import_view.bases(studio, import_box)
        updates: Updates = {none_yet: "", run: gr.update(choices=options, value=selected)} | import_view.bases(
            studio, import_box
        )
        sizes = next((item for item in targets.find(studio, selected) if item.sizes), None)
        if sizes is not None:
            updates[quant] = gr.update(choices=exports_view.quant_choices(sizes))
        return updates | combining_view.choices(studio, box.who, combined) | refresh(selected)

    def refresh(chosen: str | None) -> Updates:
        if not chosen:
            return {}
        infos = exports.list_exports(studio)
        own_infos = [item for item in infos if item.run == chosen.partition("@")[0]]
        updates: Updates = {done: exports_view.finished(studio, infos)}
        ready = exports.tools_ready(studio)
        by_kind = {item.kind: item for item in targets.find(studio, chosen)}
        for kind in _BUTTONS:
            working = next((item for item in own_infos if item.kind == kind and item.state not in OVER), None)
            updates[cards[kind]] = (
                exports_view.target(by_kind[kind], working, ready) if kind in by_kind else exports_view.no_target(kind)
            )
            updates[buttons[kind]] = gr.update(interactive=working is None and kind in by_kind)
        return updates | combining_view.listed(studio, box.store)

    def begin(kind: str, chosen: str, *how: str) -> Updates:
        exports.start(studio, chosen, kind, ExportRequest(kind, how[0] if kind == "merged" else "", how[1], how[2]))
        return refresh(chosen)

    def pick(event: gr.EventData, chosen: str) -> Updates:
        if hasattr(event, "cancel"):
            exports.cancel(studio, event.cancel)
        elif hasattr(event, "delete"):
            exports.delete(studio, event.delete)
        elif hasattr(event, "again"):
            exports.again(studio, event.again)
        return refresh(chosen)

    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    now: Step = {**quiet, "queue": False}
    parts = [done, box.store, *cards.values(), *buttons.values()]
    waker.submit(with_notice(studio, notice, refresh, clear=False), run, [notice, *parts], **now)
    once.choice("exported", run).click(with_notice(studio, notice, refresh), run, [notice, *parts], **now)
    for kind, button in buttons.items():
        button.click(
            with_notice(studio, notice, functools.partial(begin, kind)), [run, dtype, shard, quant], [notice,
            *parts], concurrency_limit=2, **quiet,
        )  # fmt: skip
    for clicked in (done, *cards.values()):
        clicked.click(with_notice(studio, notice, pick), run, [notice, *parts], **now)
    opened = [notice, none_yet, run, quant, import_box.base, *box.who, *parts]
    reopened: Step = {
        "fn": with_notice(studio, notice, reopen),
        "inputs": [run, wanted, *box.who],
        "outputs": opened,
        **now,
    }
    import_view.wire(studio, import_box, reopened)
    return ExportTab(run, reopened, train, box.store)
