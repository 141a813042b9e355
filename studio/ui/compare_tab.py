"""Compare: one question, answered side by side by the base model and by the adapted one."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import gradio as gr

from studio.errors import BadInput, StudioError
from studio.services import chat, runs
from studio.services.chat import Answer, ChatState
from studio.services.runs import RunInfo
from studio.services.studio import Studio
from studio.ui import markup
from studio.ui.handlers import PRIVATE, Step, Updates, told, told_while, view
from studio.ui.markup import esc

COLUMNS = ("base", "adapted")
KEPT = 8
_NONE_YET = ("Nothing to compare yet", "Once a run has an adapter, ask it here beside its base.")
PAUSE = 0.08  # seconds between two updates of the page while answers stream


@dataclass(frozen=True)
class CompareTab:
    """What other tabs need: the choice of a run and the step that shows the tab for it."""

    run: gr.Dropdown
    question: gr.Textbox
    reopen: Step
    train: gr.Button


def build(studio: Studio, wanted: gr.State) -> CompareTab:
    """The tab's components and what happens in them; `wanted` holds the run that is open elsewhere."""
    past = gr.State([])
    draft = gr.BrowserState("", storage_key="lora-studio-question", secret="draft of the question")  # noqa: S106 - none
    with gr.Column(elem_id="no-adapter"):
        none_yet = view("no-adapter-yet")
        train = gr.Button("Go to Train", variant="primary", size="md", elem_id="compare-go-train")
    with gr.Column(elem_id="compare"):
        run = gr.Dropdown([], label="Run", elem_id="compare-run-choice", filterable=False)
        answers = view("answers")
        notice = view("compare-notice")
        with gr.Row(elem_id="ask-row", equal_height=False):
            question = gr.Textbox(
                label="Question",
                lines=2,
                max_lines=8,
                scale=8,
                elem_id="question",
                min_width=200,
                placeholder="Ask both the same thing",
                submit_btn=False,
            )
            ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=90)
            stop = gr.Button("Stop", variant="stop", elem_id="stop-answer", scale=1, min_width=90)
        shelf = view("held-out", picks=True)
        with gr.Accordion("Sampling", open=False, elem_classes="fold"), gr.Row(elem_classes="fields three"):
            sampling = {
                "max_new_tokens": gr.Number(256, label="Longest answer (tokens)", precision=0, minimum=1, maximum=8192),
                "temperature": gr.Number(
                    0.0, label="Temperature", info="0 always takes the likeliest token.", minimum=0, maximum=5, step=0.1
                ),
                "top_p": gr.Number(
                    1.0, label="Top p", info="0.9 leaves out the unlikeliest tenth.", minimum=0.01, maximum=1, step=0.05
                ),
                "top_k": gr.Number(0, label="Top k", info="0 leaves out none.", precision=0, minimum=0),
                "repetition_penalty": gr.Number(
                    1.0, label="Repetition penalty", info="1 is none; 1.1 is usual.", minimum=0.1, maximum=5, step=0.05
                ),
                "seed": gr.Number(0, label="Seed", info="The same seed gives the same answer.", precision=0, minimum=0),
            }
        earlier = view("earlier")

    def reopen(chosen: str | None, wanted: str, asked: str = "", kept: str = "") -> Updates:
        """The runs that can be asked, the held-out messages of the chosen one, and the question that was begun."""
        able = [item for item in runs.list_runs(studio) if item.has_adapter]
        known = next((item for key in (wanted, chosen) for item in able if item.id == key), able[0] if able else None)
        found: Updates = {question: asked or kept or ""}
        if known is None:
            return found | {none_yet: markup.empty(*_NONE_YET), answers: "", run: gr.update(choices=[], value=None)}
        prompts = chat.held_out_prompts(studio, known.id)
        choices = [(f"{item.name}, step {item.step}", item.id) for item in able]
        found |= {none_yet: "", run: gr.update(choices=choices, value=known.id), shelf: _shelf(prompts)}
        return found if known.id == chosen else found | {past: [], earlier: "", answers: _turn(known, None, "")}

    def choose(chosen: str, asked: str) -> Updates:
        return {past: [], earlier: "", answers: _turn(runs.get(studio, chosen), None, "")} | reopen(chosen, "", asked)

    def converse(chosen: str, asked: str, before: list[str], request: gr.Request, *knobs: Any) -> Iterator[Updates]:
        """Streams both answers; a turn that ended joins those before it."""
        if not asked.strip():
            raise BadInput("Write a question first, or take one of the held-out messages below.")
        info, state, last = runs.get(studio, chosen), ChatState(status="Asking", answers={}, finished=False), 0.0
        yield {notice: "", answers: _turn(info, state, asked), earlier: _earlier(before)}
        options = dict(zip(sampling, knobs, strict=True))
        try:
            for state in chat.ask(studio, chosen, asked, columns=COLUMNS, session=str(request.session_hash), **options):
                if time.monotonic() - last > PAUSE:
                    last = time.monotonic()
                    yield {answers: _turn(info, state, asked)}
        except StudioError:
            yield {answers: _turn(info, _over(state), asked)}
            raise
        turn = _turn(info, _over(state), asked)
        yield {answers: turn, past: [turn, *before][:KEPT], question: "", draft: ""}

    def end(chosen: str, request: gr.Request) -> Updates:
        chat.stop(studio, chosen, str(request.session_hash))
        return {}

    def take(chosen: str, event: gr.EventData) -> Updates:
        return {question: chat.held_out_prompts(studio, chosen)[int(event.prompt)]}

    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    opened = [none_yet, run, shelf, answers, earlier, past, notice, question]
    asks: Step = {
        "fn": told_while(notice, converse, {}),
        "inputs": [run, question, past, *sampling.values()],
        "outputs": [answers, earlier, notice, past, question, draft],
        "concurrency_limit": 8,
        **quiet,
    }
    # Gradio tells of typing as input, but of pasting only when the field is left.
    keep: Step = {"fn": lambda text: text, "inputs": question, "outputs": draft, "trigger_mode": "always_last"}
    gr.on([question.input, question.blur], queue=False, **keep, **quiet)
    ask.click(**asks)
    question.submit(**asks)
    stop.click(told(notice, end), run, notice, queue=False, **quiet)
    shelf.click(told(notice, take), run, [notice, question], queue=False, **quiet)
    run.input(told(notice, choose), [run, question], opened, queue=False, **quiet)
    return CompareTab(
        run,
        question,
        {
            "fn": told(notice, reopen),
            "inputs": [run, wanted, question, draft],
            "outputs": opened,
            "queue": False,
            **quiet,
        },
        train,
    )


def _earlier(past: list[str]) -> str:
    """Turns before this one, newest first."""
    return f'{markup.heading("Earlier")}<div class="turns">{"".join(past)}</div>' if past else ""


def _over(state: ChatState) -> ChatState:
    """A turn as it stands when nothing more comes."""
    return replace(state, status="", finished=True)


def _turn(run: RunInfo, state: ChatState | None, asked: str) -> str:
    """One question with its two answers; data-asking while they come, which shows Stop in place of Ask."""
    question = f'<p class="asked">{esc(asked)}</p>' if asked else ""
    status = f'<p class="doing" role="status">{esc(state.status)}</p>' if state and state.status else ""
    titles = {"base": ("Base", run.model), "adapted": ("Adapted", f"{run.model} + {run.name}, step {run.step}")}
    asking = state is not None and not state.finished
    columns = "".join(
        _answer(column, *titles[column], state.answers.get(column) if state else None, asking) for column in COLUMNS
    )
    shows = " data-asking" if asking else ""
    return f'<section class="turn"{shows}>{question}{status}<div class="sides">{columns}</div></section>'


def _answer(column: str, title: str, who: str, answer: Answer | None, busy: bool) -> str:
    """One column: who answers, the text as plain text, and its figures."""
    body = esc(answer.text) if answer else ""
    if not answer:
        hint = "Waiting" if busy else "Answers stream here."
        body = f'<span class="hint">{hint}</span>'
    foot = f"<footer>{_figures(answer)}</footer>" if answer else ""
    writing = " writing" if answer and busy and not answer.done else ""
    return (
        f'<article class="side side-{column}{writing}" aria-label="{title}"><header>'
        f'<i class="swatch" aria-hidden="true"></i>'
        f'<b>{title}</b><span>{esc(who)}</span></header><div class="said">{body}</div>{foot}</article>'
    )


_ENDS = {"end": "", "length": "cut at the longest answer", "stopped": "stopped"}


def _figures(answer: Answer) -> str:
    if not answer.done:
        return f"{answer.tokens:,} tokens"
    end = _ENDS.get(answer.reason, answer.reason)
    speed = f"{answer.tokens_per_s:.1f} tokens/s · first after {answer.first_token_s:.2f} s"
    return f"{answer.tokens:,} tokens · {speed}" + (f" · {esc(end)}" if end else "")


def _shelf(prompts: list[str]) -> str:
    """Held-out messages: the run never saw them, so their answers are a fair test."""
    if not prompts:
        return ""
    start = _shared_start(prompts)
    items = "".join(
        f'<li><button type="button" class="prompt" data-pick data-prompt="{place}" title="{esc(text)}">'
        f"{esc(text[start:])}</button></li>"
        for place, text in enumerate(prompts)
    )
    return f'<div class="shelf-title">Held out: never trained on</div><ul class="prompts">{items}</ul>'


def _shared_start(prompts: list[str]) -> int:
    """Length of what all prompts begin with (an instruction, mostly): the shelf shows what tells them apart."""
    if len(prompts) < 2:
        return 0
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*prompts, strict=False))
    common = "".join(letters[0] for letters in same)
    return max(common.rfind("\n"), common.rfind(" ")) + 1
