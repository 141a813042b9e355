"""Runs: the table of runs and, under it, the open one: live curves, figures, samples, recipe, log, history."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.services import runs, story
from studio.services.runs import RunInfo
from studio.services.studio import Studio
from studio.ui import compare_runs, curves_view, markup, run_acts, run_story, runs_view
from studio.ui.handlers import PRIVATE, Step, Updates, changed, told, view
from studio.ui.markup import esc

_NONE_YET = ("No runs yet", "Choose a model and a dataset, and start one.")
_HEAD = """
<link rel="stylesheet" href="/static/vendor/uPlot.min.css">
<script src="/static/vendor/uPlot.min.js"></script>
"""
# The whole address: a browser that had another studio open in this tab would ask that one for the short one.
_ON_LOAD = """
import(`${location.origin}/static/curves.js`).then(({start}) => {
  const chart = start(element);
  const feed = () => props.value && chart.show(JSON.parse(props.value));
  watch('value', feed);
  feed();
});
"""


@dataclass(frozen=True)
class RunsTab:
    """What other tabs need: the open run's id, the steps that show it, and the buttons that lead on."""

    run: gr.State
    ended: gr.State
    timer: gr.Timer
    reopen: Step
    train: gr.Button
    compare: gr.Button
    export: gr.Button
    clone: gr.Button


def build(studio: Studio) -> RunsTab:
    """The tab's components and what happens in them."""
    run, page = gr.State(""), gr.State(0)
    beside = gr.State([])  # ids of runs drawn beside the open one
    order = gr.State({})  # of the table of differences: sort, down, pin
    seen = gr.State({})  # what this browser shows already, so that a tick sends only what changed
    ended = gr.State("")  # the open run, once it has ended before our eyes
    timer = gr.Timer(1.0, active=False)
    table = view("runs-table", picks=True)
    with gr.Column(elem_id="no-runs"):
        none_yet = view("no-runs-yet")
        train = gr.Button("Go to Train", variant="primary", size="md", elem_id="go-train")
    notice = view("runs-notice")
    with gr.Column(elem_id="open-run"):
        with gr.Row(equal_height=False, elem_id="run-bar"):
            head = view("run-head")
            acts = run_acts.build()
        verdict = view("run-verdict")
        chart = gr.HTML(
            html_template='<div class="curves"></div>',
            js_on_load=_ON_LOAD,
            head=_HEAD,
            elem_id="curves",
            apply_default_css=False,
        )
        differ = view("differ", picks=True)
        longer = run_acts.build_longer()
        sampled = view("run-samples")
        with gr.Accordion("Recipe", open=False, elem_classes="fold"):
            recipe = view("run-recipe")
        with gr.Accordion("Log", open=False, elem_classes="fold"):
            log = view("run-log")
        with gr.Accordion("History", open=False, elem_classes="fold", elem_id="history") as history:
            past = view("run-history")

    def refresh(chosen: str, where: int, others: list[str], how: dict[str, Any], shown: dict[str, Any]) -> Updates:
        """What changed since the last look; the curves ask for their points themselves."""
        known = runs.list_runs(studio)
        info = _open(known, chosen)
        if info is None:
            empty: Updates = {none_yet: markup.empty(*_NONE_YET), head: "", table: "", verdict: "", differ: ""}
            return changed(shown, empty) | {run: "", seen: shown}
        together = compare_runs.together(known, info, others)
        fresh: Updates = {
            none_yet: "",
            table: runs_view.table(known, info.id, where, [one.id for one in together]),
            head: runs_view.head(info),
            chart: curves_view.told(together),
            acts.stop: gr.update(interactive=info.state != "stopping"),
        }
        other = shown.get("open") != info.id
        if other:
            fresh |= {past: "", history: gr.update(open=False)}
        just_ended = info.final and shown.get("live") == info.id
        shown |= {"live": "" if info.final else info.id, "open": info.id}
        if other or just_ended or not info.final:
            fresh |= {log: _log(studio, info), recipe: _recipe(studio, info)}
        standing = repr(([(one.id, one.state, one.step, one.best_eval) for one in together], how))
        if shown.get("standing") != standing:  # these are worked out from points and recipes: only when they changed
            shown["standing"] = standing
            fresh |= {
                verdict: curves_view.verdict(studio, info),
                differ: compare_runs.table(studio, together, how),
                sampled: run_story.samples(story.samples(studio, info.id)),
            }
        if info.final:
            fresh |= {notice: "", ended: info.id} if just_ended else {notice: ""}
        return changed(shown, fresh) | {run: info.id, seen: shown}

    def pick(
        chosen: str, where: int, others: list[str], how: dict[str, Any], shown: dict[str, Any], event: gr.EventData
    ) -> Updates:
        if "page" in event._data:
            return refresh(chosen, int(event.page), others, how, shown) | {page: int(event.page)}
        if "beside" in event._data:
            others = [one for one in others if one != event.beside] + [event.beside] * (event.beside not in others)
            return refresh(chosen, where, others, how, shown) | {beside: others}
        return refresh(event.id, where, others, how, {})

    def arrange(
        chosen: str, where: int, others: list[str], how: dict[str, Any], shown: dict[str, Any], event: gr.EventData
    ) -> Updates:
        how = compare_runs.arranged(how, event._data)
        return refresh(chosen, where, others, how, shown) | {order: how}

    def anew(chosen: str, where: int, others: list[str], how: dict[str, Any]) -> Updates:
        return refresh(chosen, where, others, how, {})

    def tell(chosen: str) -> Updates:
        return {past: run_story.story(story.tell(studio, chosen)) if chosen else ""}

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    parts = [table, none_yet, head, acts.stop, verdict, chart, differ, sampled, recipe, log, past, history]
    parts += [run, seen, ended]
    # Through the queue: only its answers tell the browser that a state (here `ended`) has changed.
    tick: Step = {**quiet, "queue": True, "concurrency_limit": None}
    looked = [run, page, beside, order, seen]
    timer.tick(told(notice, refresh, clear=False), looked, [notice, *parts], **tick)
    table.click(told(notice, pick), looked, [notice, page, beside, *parts], **quiet)
    differ.click(told(notice, arrange), looked, [notice, order, *parts], **quiet)
    reopen: Step = {"fn": told(notice, anew), "inputs": looked[:-1], "outputs": [notice, *parts], **quiet}
    run_acts.wire(studio, acts, longer, looked[:-1], notice, anew, parts)
    # Every checkpoint is read for it, so it is told only where it is looked at.
    history.expand(told(notice, tell, clear=False), run, [notice, past], **tick)
    return RunsTab(run, ended, timer, reopen, train, acts.compare, acts.export, acts.clone)


def _open(known: list[RunInfo], chosen: str) -> RunInfo | None:
    """The chosen run; without one, the newest."""
    return next((run for run in known if run.id == chosen), known[0] if known else None)


def _log(studio: Studio, run: RunInfo) -> str:
    text = runs.log_tail(studio, run.id)
    return markup.code(text, "the log") if text else markup.note("Nothing has been logged yet.")


def _recipe(studio: Studio, run: RunInfo) -> str:
    return markup.code(runs.recipe_yaml(studio, run.id), "the recipe") + f'<p class="path">{esc(run.path)}</p>'
