"""Export: what a run can be taken away as, and what has been."""

import functools
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.services import exports, runs
from studio.services.exports import ExportInfo
from studio.services.studio import Studio
from studio.ui import markup, units
from studio.ui.handlers import PRIVATE, Step, Updates, changed, told, view
from studio.ui.markup import esc

_NONE_YET = ("Nothing to export yet", "A run that has an adapter can be taken away from here.")
_BUTTONS = {"adapter": "Export adapter", "merged": "Export merged model"}


@dataclass(frozen=True)
class ExportTab:
    """What other tabs need: the choice of a run and the step that shows the tab for it."""

    run: gr.Dropdown
    timer: gr.Timer
    reopen: Step
    train: gr.Button


def build(studio: Studio, wanted: gr.State) -> ExportTab:
    """The tab's components and what happens in them; `wanted` holds the run that is open elsewhere."""
    seen = gr.State({})
    timer = gr.Timer(1.0, active=False)
    cards: dict[str, gr.HTML] = {}
    buttons: dict[str, gr.Button] = {}
    with gr.Column(elem_id="no-export"):
        none_yet = view("no-export-yet")
        train = gr.Button("Go to Train", variant="primary", size="md", elem_id="export-go-train")
    with gr.Column(elem_id="export"):
        run = gr.Dropdown([], label="Run", elem_id="export-run-choice", filterable=False)
        notice = view("export-notice")
        with gr.Row(elem_id="export-cards"):
            for kind, label in _BUTTONS.items():
                with gr.Column(elem_classes="card", min_width=260):
                    cards[kind] = view(f"card-{kind}")
                    buttons[kind] = gr.Button(label, variant="primary", elem_id=f"export-{kind}")
        done = view("exports-done")

    def reopen(chosen: str | None, wanted: str) -> Updates:
        """The runs that can be exported, and the cards of the chosen one."""
        able = runs.with_adapter(studio)
        known = next((item for key in (wanted, chosen) for item in able if item.id == key), able[0] if able else None)
        if known is None:
            gone = dict.fromkeys(cards.values(), "")
            return {none_yet: markup.empty(*_NONE_YET), run: gr.update(choices=[], value=None), **gone}
        choices = [(f"{item.name}, step {item.step}", item.id) for item in able]
        return {none_yet: "", run: gr.update(choices=choices, value=known.id)} | refresh(known.id, {})

    def refresh(chosen: str | None, shown: dict[str, Any]) -> Updates:
        if not chosen:
            return {}
        made = exports.list_exports(studio, chosen)
        fresh: Updates = {done: _done(made)}
        for kind, title, why, size in exports.kinds(studio, chosen):
            working = next((item for item in made if item.kind == kind and item.state not in _OVER), None)
            fresh[cards[kind]] = _card(title, why, size, working)
            fresh[buttons[kind]] = gr.update(interactive=working is None)
        return changed(shown, fresh) | {seen: shown}

    def begin(kind: str, chosen: str, shown: dict[str, Any]) -> Updates:
        exports.start(studio, chosen, kind)
        return refresh(chosen, shown)

    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    parts = [done, seen, *cards.values(), *buttons.values()]
    timer.tick(told(notice, refresh, clear=False), [run, seen], [notice, *parts], queue=False, **quiet)
    run.input(told(notice, lambda chosen: refresh(chosen, {})), run, [notice, *parts], queue=False, **quiet)
    for kind, button in buttons.items():
        button.click(
            told(notice, functools.partial(begin, kind)), [run, seen], [notice, *parts], concurrency_limit=2, **quiet
        )
    opened = [notice, none_yet, run, *parts]
    return ExportTab(
        run,
        timer,
        {"fn": told(notice, reopen), "inputs": [run, wanted], "outputs": opened, "queue": False, **quiet},
        train,
    )


_OVER = ("completed", "failed", "stopped", "interrupted")


def _card(title: str, why: str, size: int, working: ExportInfo | None) -> str:
    """A target: its size, what it is for, and how far an export of it is."""
    text = f"<h3>{esc(title)}<span>about {esc(units.size(size))}</span></h3><p>{esc(why)}</p>"
    if working is None:
        return text
    bar = markup.progress(working.done, working.of, f"Progress of {title}")
    return f'{text}<p class="doing" role="status">{esc(working.doing or working.state)}…</p>{bar}'


def _done(made: list[ExportInfo]) -> str:
    """Exports that are over, newest first."""
    over = [item for item in made if item.state in _OVER]
    return markup.heading("Done") + "".join(map(_finished, over)) if over else ""


def _finished(item: ExportInfo) -> str:
    name = esc(_NAMES.get(item.kind, item.kind))
    title = f"<h3>{name}{markup.mark(item.state)}<span>{markup.when(item.created)}</span></h3>"
    if item.state != "completed":
        return f'<section class="card done">{title}{markup.problem(item.message or "It did not finish.")}</section>'
    parity = f'<p class="parity">{esc(item.parity)}</p>' if item.parity else ""
    link = (
        f'<a class="download" href="/download/{esc(item.id)}" download>Download {esc(item.file_name)}'
        f" <small>{esc(units.size(item.size))}</small></a>"
        if item.file_name
        else f"<span>{esc(units.size(item.size))}</span>"
    )
    where = f'<p class="path">{esc(item.path)}</p>' if item.path else ""
    return (
        f'<section class="card done">{title}{parity}<p class="get">{link}</p>{where}'
        f"{markup.code(item.load_lines, 'the lines that load it')}</section>"
    )


_NAMES = {"adapter": "Adapter", "merged": "Merged model"}
