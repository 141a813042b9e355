"""Export: what was learned, taken away as an adapter, a merged model or a GGUF; and adapters combined."""

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

_NONE_YET = ("Nothing to export yet", "A run that has an adapter can be taken away from here.")
_BUTTONS = {"adapter": "Export adapter", "merged": "Export merged model", "gguf": "Export GGUF"}
_SHARDS = [("one file up to 5 GB", "5GB"), ("files of 2 GB", "2GB"), ("files of 500 MB", "500MB")]


@dataclass(frozen=True)
class ExportTab:
    """What other tabs need: the choice of a source, the step that shows the tab for it, and the list whose clicks with
    data-ask open Compare."""

    run: gr.Dropdown
    reopen: Step
    train: gr.Button
    store: gr.HTML


def build(studio: Studio, wanted: gr.State) -> ExportTab:
    """The tab's components and what happens in them; `wanted` holds the run that is open elsewhere."""
    awake = pulse.waker("export")
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
                        dtype = gr.Dropdown([("The run's own type", ""), *targets.DTYPES], value="", label="Type",
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
    brought = import_view.build(studio)

    def reopen(chosen: str | None, wanted: str, *combined: str | None) -> Updates:
        """What can be exported, and the cards of the chosen one."""
        able = [
            (label, key) for label, key in trained_weights.choices(studio) if not label.endswith("newest checkpoint")
        ]
        keys = [key for _, key in able]
        known = next((key for key in (wanted, chosen) if key in keys), keys[0] if keys else None)
        if known is None:
            gone = dict.fromkeys(cards.values(), "")
            none = {none_yet: markup.empty(*_NONE_YET), run: gr.update(choices=[], value=None), **gone}
            return none | import_view.bases(studio, brought)
        found: Updates = {none_yet: "", run: gr.update(choices=able, value=known)} | import_view.bases(studio, brought)
        sizes = next((one for one in targets.find(studio, known) if one.sizes), None)
        if sizes is not None:
            found[quant] = gr.update(choices=exports_view.quant_choices(sizes))
        return found | combining_view.choices(studio, box.who, combined) | refresh(known)

    def refresh(chosen: str | None) -> Updates:
        if not chosen:
            return {}
        made = exports.list_exports(studio)
        mine = [item for item in made if item.run == chosen.partition("@")[0]]
        fresh: Updates = {done: exports_view.finished(studio, made)}
        ready = exports.tools_ready(studio)
        there = {one.kind: one for one in targets.find(studio, chosen)}
        for kind in _BUTTONS:
            working = next((item for item in mine if item.kind == kind and item.state not in OVER), None)
            fresh[cards[kind]] = exports_view.target(there[kind], working, ready) if kind in there else _CANNOT[kind]
            fresh[buttons[kind]] = gr.update(interactive=working is None and kind in there)
        return fresh | combining_view.listed(studio, box.store)

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
    awake.submit(with_notice(studio, notice, refresh, clear=False), run, [notice, *parts], **now)
    once.choice("exported", run).click(with_notice(studio, notice, refresh), run, [notice, *parts], **now)
    for kind, button in buttons.items():
        button.click(
            with_notice(studio, notice, functools.partial(begin, kind)), [run, dtype, shard, quant], [notice,
            *parts], concurrency_limit=2, **quiet,
        )  # fmt: skip
    for clicked in (done, *cards.values()):
        clicked.click(with_notice(studio, notice, pick), run, [notice, *parts], **now)
    opened = [notice, none_yet, run, quant, brought.base, *box.who, *parts]
    reopened: Step = {
        "fn": with_notice(studio, notice, reopen),
        "inputs": [run, wanted, *box.who],
        "outputs": opened,
        **now,
    }
    import_view.wire(studio, brought, reopened)
    return ExportTab(run, reopened, train, box.store)


_CANNOT = {
    "adapter": "<h3>Adapter</h3><p>Every weight was trained: there is no adapter apart from the model.</p>",
    "merged": "<h3>Merged model</h3><p>What this method trains is put before each prompt and cannot be merged.</p>",
    "gguf": "<h3>GGUF</h3><p>What this method trains is put before each prompt and cannot be merged.</p>",
}
