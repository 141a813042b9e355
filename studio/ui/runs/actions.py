"""Actions on the open run: stop, cancel, resume, train longer, move in the queue, and go to other tabs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.runs import queue, resuming, runs
from studio.services.runs.runs import RunInfo
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates
from studio.ui.parts.templates import render

Act = Callable[[Studio, str], RunInfo]


@dataclass(frozen=True)
class RunActions:
    """The buttons. `marks` in the run's head says which apply; the style sheet shows them."""

    stop: gr.Button
    cancel: gr.Button
    resume: gr.Button
    force: gr.Button
    first: gr.Button
    now: gr.Button
    clone: gr.Button
    compare: gr.Button
    export: gr.Button


@dataclass(frozen=True)
class Longer:
    """The fields for training a finished run longer."""

    more: gr.Number
    unit: gr.Radio
    go: gr.Button


def build() -> RunActions:
    """The buttons next to the run's name."""

    def button(label: str, name: str, **more: Any) -> gr.Button:
        return gr.Button(label, size="md", elem_id=f"{name}-run", min_width=80, **more)

    with gr.Row(elem_id="run-acts"):
        return RunActions(
            stop=button("Stop", "stop", variant="stop"),
            resume=button("Resume", "resume", variant="primary"),
            force=button("Resume anyway", "force"),
            now=button("Start now", "now"),
            first=button("Move to front", "first"),
            cancel=button("Cancel", "cancel", elem_classes="quiet-button"),
            compare=button("Compare", "compare"),
            export=button("Export", "export"),
            clone=button("Clone", "clone"),
        )


def build_longer() -> Longer:
    """The fold for training a run longer."""
    with (
        gr.Accordion("Train longer", open=False, elem_classes="fold", elem_id="longer"),
        gr.Row(elem_id="longer-row", equal_height=False),
    ):
        more = gr.Number(
            1,
            label="How much longer",
            info="Training continues from the last checkpoint. The learning rate follows the schedule of the longer "
            "run, so it rises again if it had fallen to 0.",
            minimum=0.01,
            step=1,
            elem_id="longer-more",
            scale=4,
        )
        unit = gr.Radio(["epochs", "steps"], value="epochs", label="Unit", elem_id="longer-unit", scale=2)
        go = gr.Button("Continue", size="md", elem_id="longer-go", scale=0, min_width=110)
    return Longer(more, unit, go)


def marks(run: RunInfo) -> list[str]:
    """The actions that apply to a run, as names of data attributes of an element in its head."""
    flags = {
        "data-live": not run.final and run.state != "queued",
        "data-waits": run.state == "queued",
        "data-resumes": run.can_resume,
        "data-extends": run.state == "completed" and bool(run.resume_hint) and run.trashed is None,
        "data-adapter": run.has_adapter and run.trashed is None,
    }
    return [name for name, applies in flags.items() if applies]


def wire(
    studio: Studio,
    acts: RunActions,
    longer: Longer,
    inputs: Sequence[Any],
    notice: gr.HTML,
    show: Callable[..., Updates],
    parts: Sequence[Any],
) -> None:
    """Wire the buttons.

    inputs: the open run and the other inputs of `show`; show: the tab's updates; parts: their components.
    """

    def does(act: Act, describe: Callable[[RunInfo], str]) -> Callable[..., Updates]:
        def handler(chosen: str, *place: Any) -> Updates:
            try:
                info = act(studio, chosen)
            except StudioError as error:
                return {notice: _refusal(studio, error)}
            return {**show(chosen, *place), notice: markup.note(describe(info))}

        return handler

    def go_on(more: float | None, unit: str, *where: Any) -> Updates:
        def extend(studio: Studio, which: str) -> RunInfo:
            if unit == "steps":
                return resuming.extend(studio, which, steps=int(more or 0))
            return resuming.extend(studio, which, epochs=more or 0)

        return does(extend, _goes_on)(*where)

    step: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 4}
    for button, act, describe in (
        (acts.stop, runs.stop, lambda _: "Stopping after this step; a checkpoint is saved first. It can be resumed."),
        (
            acts.cancel,
            runs.cancel,
            lambda info: "Removed from the queue." if info.final else "Cancelling without saving.",
        ),
        (acts.resume, resuming.resume, _goes_on),
        (acts.force, lambda where, which: resuming.resume(where, which, force=True), _goes_on),
        (acts.first, queue.first, lambda _: "It will start next."),
        (acts.now, queue.start_now, lambda _: "It starts now, alongside the runs in progress."),
    ):
        button.click(does(act, describe), inputs, [notice, *parts], **step)
    longer.go.click(go_on, [longer.more, longer.unit, *inputs], [notice, *parts], **step)


def _goes_on(info: RunInfo) -> str:
    return "It continues as soon as the device is free." if info.state == "queued" else "It continues."


def _refusal(studio: Studio, error: StudioError) -> str:
    """The reason an action was refused; where the command line suggests --force, a button is shown instead."""
    text = access.for_reader(studio, error)
    reason = text.replace("resume it with --force", "resume it anyway")
    return render("runs/refusal.html", reason=reason, may_force="--force" in text)
