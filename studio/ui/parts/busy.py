"""Longer tasks on a page: what is being done, how far it is, and a button that ends it."""

import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

import gradio as gr

from studio.services.core.jobs import Progress
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Cancelled, Updates, view

T = TypeVar("T")


@dataclass(frozen=True)
class Busy:
    """A place for what is being done; the Cancel button behind it is shown by the style sheet while something is.

    going: each task that is being done, by the session that asked for it, with the event that cancels it.
    """

    said: gr.HTML
    going: list[tuple[str, threading.Event]] = field(default_factory=list)

    @property
    def idle(self) -> Updates:
        """Nothing is being done any more."""
        return {self.said: ""}

    def follow(self, request: gr.Request, what: str, job: Generator[Progress, None, T]) -> Generator[Updates, None, T]:
        """Run a step-by-step task to its end, saying `what` until its first step and then how far it is.

        Closing this closes the task; so does Cancel, which then raises Cancelled.
        """
        task = (str(request.session_hash), threading.Event())
        self.going.append(task)
        try:
            with contextlib.closing(job):
                yield {self.said: markup.doing(what)}
                while True:
                    # Asked here, not by Gradio's cancels=: so the word that it is over comes behind all progress.
                    if task[1].is_set():
                        raise Cancelled
                    try:
                        step = next(job)
                    except StopIteration as end:
                        return end.value
                    yield {self.said: markup.doing(step.doing, step.done, step.of)}
        finally:
            self.going.remove(task)

    def cancel(self, request: gr.Request) -> None:
        """Let every task that this session has going here end at its next step."""
        for session, wish in list(self.going):
            if session == str(request.session_hash):
                wish.set()


def build(name: str) -> Busy:
    """name: what the elements' ids begin with."""
    busy = Busy(view(f"{name}-progress"))
    cancel = gr.Button("Cancel", size="md", elem_id=f"{name}-cancel", elem_classes=["quiet-button", "cancel"])
    cancel.click(busy.cancel, None, None, queue=False, show_progress="hidden", api_visibility=PRIVATE)
    return busy
