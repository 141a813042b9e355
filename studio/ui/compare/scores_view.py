"""The views Scores and Table of an evaluation, and the controls that start one.

`build` makes the controls and the scores, `build_table` the table of the selected evaluation. Both are placed by the
Compare tab (evaluation_fold.py).
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import gradio as gr

from studio.errors import StudioError
from studio.services.core.studio import Studio
from studio.services.evals import evaluations, judge, prompt_sets
from studio.services.evals.evaluations import EvaluationInfo
from studio.services.evals.prompt_sets import GENERAL, HELD_OUT
from studio.services.runs import runs
from studio.ui.compare import evaluation_page
from studio.ui.compare.evaluation_page import PAGE
from studio.ui.gradio_compat import once
from studio.ui.parts import busy as busy_view
from studio.ui.parts import markup, units
from studio.ui.parts.busy import Busy
from studio.ui.parts.handlers import (
    PRIVATE,
    QUEUED,
    Cancelled,
    Step,
    Updates,
    view,
    with_notice,
    with_notice_while,
)
from studio.ui.parts.templates import render

_WAITING = (
    "Not evaluated yet",
    "Base and adapted model answer the same prompts; every change is shown with its confidence interval.",
)
_USUAL = [HELD_OUT, GENERAL]
_TYPED = "What is the capital of Peru? => Lima\nAnswer in JSON: who are you? => json: name, kind"


@dataclass(frozen=True)
class ScoresView:
    """What other modules need: the selected evaluation and the steps that show a run's evaluations.

    reopen: fills the dropdown; follow: shows the progress of running evaluations until they end.
    """

    chosen: gr.Dropdown
    notice: gr.HTML
    reopen: Step
    follow: Step


def build(studio: Studio, run: gr.State | gr.Dropdown) -> ScoresView:
    """Build the controls that start an evaluation of `run` (a component with its id), its progress and its results."""
    with gr.Column(elem_id="evaluate"):
        with gr.Row(elem_id="evaluate-row", equal_height=False):
            sets = gr.CheckboxGroup(
                _set_choices(studio), value=_USUAL, label="Prompts", elem_id="evaluate-sets", scale=3
            )
            against = gr.Dropdown(
                [], value=[], multiselect=True, label="Compare with", elem_id="evaluate-against", scale=2,
                info="Other runs and checkpoints of the same base model.",
            )  # fmt: skip
            limit = gr.Number(
                evaluations.LIMIT, label="Prompts per set", precision=0, minimum=1, maximum=prompt_sets.MOST,
                elem_id="evaluate-limit", min_width=120,
            )  # fmt: skip
            start = gr.Button("Evaluate", variant="primary", elem_id="evaluate-start", min_width=120)
        with gr.Accordion("Your own prompts", open=False, elem_classes="fold"):
            lines = gr.Textbox(
                label="One per line: prompt => expected answer", lines=3, max_lines=12,
                placeholder=_TYPED, elem_id="own-prompts",
            )  # fmt: skip
            with gr.Row():
                file = gr.File(label="Or a file", file_count="single", type="filepath", elem_id="own-file", height=90)
                name = gr.Textbox(label="Set name", elem_id="own-name", max_lines=1)
                add = gr.Button("Add set", elem_id="add-own", min_width=120)
        busy = busy_view.build("evaluation")
        notice = view("evaluation-notice")
        chosen = gr.Dropdown([], label="Evaluation", elem_id="evaluation-choice", filterable=False)
        scores_html = view("scores")
        ask = gr.Button("Ask the judge", elem_id="ask-judge", size="md") if studio.settings.judge_url else None

    def list_all(run_id: str | None, wanted: str | None) -> Updates:
        """The evaluations of a run with one of them selected, and its results."""
        if not run_id:
            return {chosen: gr.update(choices=[], value=None), scores_html: ""}
        infos = evaluations.list_evaluations(studio, run_id)
        finished = [item for item in infos if item.final]
        selected = next((item.id for item in finished if item.id == wanted), finished[0].id if finished else None)
        choices = [(_label(item), item.id) for item in finished]
        return {chosen: gr.update(choices=choices, value=selected), **show(selected)}

    def open_run(run_id: str | None, wanted: str | None) -> Updates:
        others = _others(studio, run_id) if run_id else []
        return list_all(run_id, wanted) | {
            sets: gr.update(choices=_set_choices(studio), value=_USUAL),
            against: gr.update(choices=others, value=[]),
        }

    def show(evaluation_id: str | None) -> Updates:
        return {scores_html: _scores(studio, evaluation_id) if evaluation_id else markup.empty(*_WAITING)}

    def begin(run_id: str, wanted: list[str], others: list[str], most: float, request: gr.Request) -> Iterator[Updates]:
        info = evaluations.start(studio, run_id, wanted, others, int(most))
        yield {notice: ""}
        yield from watch(run_id, info.id, request)

    def watch(run_id: str, evaluation_id: str, request: gr.Request) -> Iterator[Updates]:
        """Follow an evaluation. Cancel ends it; leaving the page does not."""
        try:
            info = yield from _follow(studio, busy, evaluation_id, request)
        except Cancelled:
            # Two steps of one page may follow it: a click on Evaluate while the page is still opening starts a second.
            if evaluations.get(studio, evaluation_id).state != "stopped":
                evaluations.cancel(studio, evaluation_id)
            raise
        if info.state != "completed":
            raise StudioError(f"{info.message} {info.remedy}".strip())
        yield list_all(run_id, info.id)

    def follow(run_id: str | None, request: gr.Request) -> Iterator[Updates]:
        """Follow the run's evaluations in progress, except one that was cancelled and is only stopping."""
        infos = evaluations.list_evaluations(studio, run_id) if run_id else []
        for item in infos:
            if not item.final and item.state != "stopping":
                yield from watch(str(run_id), item.id, request)

    def add_own(
        text: str, path: str | None, set_name: str, selected: list[str], request: gr.Request
    ) -> Iterator[Updates]:
        if path:
            prompt_set = yield from busy.follow(request, "Reading the file", prompt_sets.adding(studio, path, set_name))
        else:
            prompt_set = prompt_sets.add_typed(studio, text, set_name)
        message = f"{prompt_set.name}: {prompt_set.prompts:,} prompts. It is selected above."
        ticked = [*selected, prompt_set.id]
        yield {notice: markup.note(message, "good"), sets: gr.update(choices=_set_choices(studio), value=ticked),
               lines: "", name: "", file: None}  # fmt: skip

    def have_judged(evaluation_id: str | None, request: gr.Request) -> Iterator[Updates]:
        if evaluation_id:
            yield from busy.follow(request, "Asking the judge", judge.judging(studio, evaluation_id))
            yield {notice: "", **show(evaluation_id)}

    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    filled = [sets, against, chosen, scores_html]
    parts = [*filled, notice, busy.said]
    start.click(with_notice_while(studio, notice, begin, busy.idle), [run, sets, against, limit], parts, **QUEUED)
    own = [notice, sets, lines, name, file, busy.said]
    add.click(with_notice_while(studio, notice, add_own, busy.idle), [lines, file, name, sets], own, **QUEUED)
    once.choice("scored", chosen).click(
        with_notice(studio, notice, show), chosen, [notice, scores_html], queue=False, **quiet
    )
    if ask is not None:
        ask.click(
            with_notice_while(studio, notice, have_judged, busy.idle),
            chosen,
            [notice, scores_html, busy.said],
            **QUEUED,
        )
    reopen: Step = {
        "fn": with_notice(studio, notice, open_run), "inputs": [run, chosen], "outputs": [*filled, notice],
        "queue": False, **quiet,
    }  # fmt: skip
    following: Step = {
        "fn": with_notice_while(studio, notice, follow, busy.idle),
        "inputs": run,
        "outputs": parts,
        **QUEUED,
    }
    run.change(**reopen).then(**following)
    return ScoresView(chosen, notice, reopen, following)


def build_table(studio: Studio, scores: ScoresView) -> gr.HTML:
    """Build the table of every prompt with every column's answer, one page at a time."""
    with gr.Column(elem_id="evaluation-table"):
        with gr.Row(elem_id="table-row"):
            which = gr.Radio(
                [("All prompts", "all"), ("Where marks differ", "differ")], value="all", label="Show",
                elem_id="table-which",
            )  # fmt: skip
        table = view("answers-table", picks=True)

    def show(evaluation_id: str | None, kind: str) -> Updates:
        return page(evaluation_id, kind, 0)

    def page(evaluation_id: str | None, kind: str, offset: int) -> Updates:
        if not evaluation_id:
            return {table: ""}
        info = evaluations.get(studio, evaluation_id)
        if info.state != "completed":
            return {table: ""}
        rows = evaluation_page.chosen_rows(evaluations.result(studio, evaluation_id), kind)
        return {table: evaluation_page.table(info, rows, offset, PAGE)}

    def turn(evaluation_id: str | None, kind: str, event: gr.EventData) -> Updates:
        return page(evaluation_id, kind, int(event.offset))

    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    asks: Step = {"inputs": [scores.chosen, which], "outputs": [table, scores.notice], "queue": False, **quiet}
    gr.on([scores.chosen.change, which.input], with_notice(studio, scores.notice, show, clear=False), **asks)
    table.click(with_notice(studio, scores.notice, turn, clear=False), **asks)
    return table


def _follow(
    studio: Studio, busy: Busy, evaluation_id: str, request: gr.Request
) -> Generator[Updates, None, EvaluationInfo]:
    return (yield from busy.follow(request, "Starting", evaluations.following(studio, evaluation_id)))


def _scores(studio: Studio, evaluation_id: str) -> str:
    info = evaluations.get(studio, evaluation_id)
    if info.state != "completed":
        return markup.problem(info.message or f"This evaluation is {info.state}.", info.remedy)
    judgement = evaluations.judgement(studio, info.id)
    sentence = str(judgement["sentence"]) if judgement else ""
    scores = evaluation_page.scores(info, evaluations.result(studio, info.id), sentence)
    return render("compare/scores_view.html", evaluation_id=info.id, scores=scores)


def _label(info: EvaluationInfo) -> str:
    titles = ", ".join(title for name, title in info.columns.items() if name != evaluations.BASE)
    state = "" if info.state == "completed" else f", {info.state}"
    return f"{titles}: {', '.join(info.sets.values())}, {units.ago(info.created)}{state}"


def _set_choices(studio: Studio) -> list[tuple[str, str]]:
    own = [(f"{item.name} ({item.prompts:,})", item.id) for item in prompt_sets.list_sets(studio) if item.id != GENERAL]
    return [("Held out of training", HELD_OUT), ("General: was anything forgotten?", GENERAL), *own]


def _others(studio: Studio, run_id: str) -> list[tuple[str, str]]:
    """Other runs of the same base model, and checkpoints of these and of the run itself."""
    infos = runs.list_runs(studio)
    current = next((item for item in infos if item.id == run_id), None)
    choices = []
    for item in infos:
        if current is None or item.model != current.model:
            continue
        if item.id != run_id and item.has_adapter:
            choices.append((f"{item.name}, step {item.step}", item.id))
        choices += [
            (f"{item.name}, checkpoint {step}", f"{item.id}@{step}") for step in evaluations.steps(studio, item.id)
        ]
    return choices
