"""The Runs tab: the list of runs and, below it, the open run: live curves, figures, samples, recipe, log, history."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.runs import history as story
from studio.services.runs import runs
from studio.services.runs.runs import RunInfo
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates, changed, view, with_notice
from studio.ui.parts.templates import macro, render
from studio.ui.runs import actions as run_actions
from studio.ui.runs import compare_runs, curves_view, machine_view, open_run
from studio.ui.runs import story as run_story
from studio.ui.runs import view as runs_view

_NONE_YET = ("No runs yet", "Choose a model and a dataset, and start one.")
_LIST = """
import(`${location.origin}/static/runs.js`).then(({start}) => {
  const list = start(element, (what, event = 'click') => trigger(event, what));
  const hear = () => props.value && list.opened(JSON.parse(props.value));
  watch('value', hear);
  hear();
});
"""
# An absolute address: a browser that had another studio open in this tab would resolve a relative one against that.
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
    """What other tabs need: the open run's id, the steps that show it, and the buttons that lead to other tabs."""

    run: gr.State
    ended: gr.State
    reopen: Step
    train: gr.Button
    compare: gr.Button
    export: gr.Button
    clone: gr.Button


def build(studio: Studio) -> RunsTab:
    """Build the tab's components and wire their events."""
    run = gr.State("")
    beside = gr.State([])  # ids of runs compared with the open one
    order = gr.State({})  # order of the table of differences: sort, down, pin
    seen = gr.State({})  # what this browser already has, so that a refresh sends only changes
    ended = gr.State("")  # the open run, once it has ended while shown
    table = gr.HTML(
        html_template=macro("runs/frames.html", "run_list"),
        js_on_load=_LIST,
        elem_id="runs-table",
        apply_default_css=False,
    )
    with gr.Column(elem_id="no-runs"):
        none_yet = view("no-runs-yet")
        train = gr.Button("Go to Train", variant="primary", size="md", elem_id="go-train")
    notice = view("runs-notice")
    with gr.Column(elem_id="open-run"):
        with gr.Row(equal_height=False, elem_id="run-bar"):
            head = view("run-head")
            acts = run_actions.build()
        about = view("run-about")
        verdict = view("run-verdict")
        chart = gr.HTML(
            html_template=macro("runs/frames.html", "curves"),
            js_on_load=_ON_LOAD,
            head=macro("runs/frames.html", "curves_files"),
            elem_id="curves",
            apply_default_css=False,
        )
        differ = view("differ", picks=True)
        longer = run_actions.build_longer()
        sampled = view("run-samples")
        with gr.Accordion("Recipe", open=False, elem_classes="fold"):
            recipe = view("run-recipe")
        with gr.Accordion("Log", open=False, elem_classes="fold"):
            log = view("run-log")
        with gr.Accordion("History", open=False, elem_classes="fold", elem_id="history") as history:
            past = view("run-history")
    machine_view.build()

    def refresh(chosen: str, others: list[str], how: dict[str, Any], shown: dict[str, Any]) -> Updates:
        """What changed since the last refresh.

        Rows, points and the text of a running run come with the pulse. Gradio is asked only when something is opened or
        done, or when the layout changes.
        """
        generation = shown.setdefault("asked", 0)
        info = open_run.find(studio, chosen)
        if info is None:
            empty: Updates = {none_yet: markup.empty(*_NONE_YET), head: "", about: "", verdict: "", differ: ""}
            empty[table] = runs_view.run_list_message("", [], {})
            return changed(shown, empty) | {run: "", seen: shown}
        drawn = open_run.compared_runs(studio, info, others)
        renderers = open_run.parts(studio, info, drawn, how)
        fresh: Updates = {
            none_yet: "",
            table: runs_view.run_list_message(info.id, drawn, how),
            head: renderers["run-head"](),
            about: renderers["run-about"](),
            chart: curves_view.runs_to_draw(drawn),
            acts.stop: gr.update(interactive=info.state != "stopping"),
        }
        opened = shown.get("open") != info.id
        if opened:
            fresh |= {past: "", history: gr.update(open=False)}
        just_ended = info.final and shown.get("live") == info.id
        shown |= {"live": "" if info.final else info.id, "open": info.id}
        if opened or just_ended or not info.final:
            fresh |= {log: renderers["run-log"](), recipe: _recipe(studio, info)}
        standing = repr(([(item.id, item.state, item.step, item.best_eval) for item in drawn], how))
        if shown.get("standing") != standing:  # computed from points and recipes: only when they changed
            shown["standing"] = standing
            fresh |= {
                verdict: renderers["run-verdict"](),
                differ: renderers["differ"](),
                sampled: renderers["run-samples"](),
            }
        if info.final:
            fresh |= {notice: "", ended: info.id} if just_ended else {notice: ""}
        if shown["asked"] != generation:  # another run was opened meanwhile, so this result is obsolete
            return {}
        return changed(shown, fresh) | {seen: shown} | ({run: info.id} if info.id != chosen else {})

    def afresh(shown: dict[str, Any]) -> dict[str, Any]:
        """Discard everything recorded about this browser's view.

        The object stays the same, so that a refresh in progress sees the change.
        """
        kept = {"asked": shown.get("asked", 0) + 1, "picks": shown.get("picks", [])}
        shown.clear()
        shown.update(kept)
        return shown

    def pick(
        chosen: str, others: list[str], how: dict[str, Any], shown: dict[str, Any], event: gr.EventData
    ) -> Updates:
        if hasattr(event, "beside"):
            others = [key for key in others if key != event.beside] + [event.beside] * (event.beside not in others)
            return refresh(chosen, others, how, shown) | {beside: others}
        if hasattr(event, "id"):
            under_way = shown.setdefault("picks", [])
            under_way.append(chosen)
            try:
                fresh = refresh(str(event.id), others, how, afresh(shown))
            finally:
                under_way.remove(chosen)
            return {run: str(event.id)} | fresh if fresh else {}
        return refresh(chosen, others, how, shown)  # a run's labels changed

    def arrange(
        chosen: str, others: list[str], how: dict[str, Any], shown: dict[str, Any], event: gr.EventData
    ) -> Updates:
        click = {name: getattr(event, name) for name in ("pin", "sort") if hasattr(event, name)}
        how = compare_runs.sort_order(how, click)
        return refresh(chosen, others, how, shown) | {order: how}

    def anew(chosen: str, others: list[str], how: dict[str, Any], shown: dict[str, Any]) -> Updates:
        if chosen in shown.get("picks", ()):
            return {}  # a run is just being opened from here and will be shown by that event
        return refresh(chosen, others, how, afresh(shown))

    def tell(chosen: str) -> Updates:
        return {past: run_story.story(story.story_of(studio, chosen)) if chosen else ""}

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    parts = [table, none_yet, head, about, acts.stop, verdict, chart, differ, sampled, recipe, log, past, history]
    parts += [run, seen, ended]
    # Queued: only queued events notify the browser that a state (here `ended`) has changed.
    tick: Step = {**quiet, "queue": True, "concurrency_limit": None}
    inputs = [run, beside, order, seen]
    table.submit(with_notice(studio, notice, refresh, clear=False), inputs, [notice, *parts], **tick)
    # Not queued, since queued answers cost the browser more; `asked` keeps a refresh in progress from undoing it.
    # Multiple: by default a click would be lost while an earlier one is in progress.
    table.click(with_notice(studio, notice, pick), inputs, [notice, beside, *parts], trigger_mode="multiple", **quiet)
    differ.click(with_notice(studio, notice, arrange), inputs, [notice, order, *parts], **tick)
    reopen: Step = {
        "fn": with_notice(studio, notice, anew),
        "inputs": inputs,
        "outputs": [notice, *parts],
        **quiet,
    }
    run_actions.wire(studio, acts, longer, inputs, notice, anew, parts)
    # It reads every checkpoint, so it is computed only when the fold is opened.
    history.expand(with_notice(studio, notice, tell, clear=False), run, [notice, past], **tick)
    return RunsTab(run, ended, reopen, train, acts.compare, acts.export, acts.clone)


def _recipe(studio: Studio, run: RunInfo) -> str:
    path = run.path if access.may_name_files(studio) else ""
    return render("runs/recipe.html", recipe=runs.recipe_yaml(studio, run.id), path=path)
