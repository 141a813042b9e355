"""Progress of longer tasks on a page: what is being done, how far it is, and a Cancel button."""

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
    """A place for progress. The style sheet shows its Cancel button while a task is running.

    going: the running tasks, each as the session that asked for it and the event that cancels it.
    """

    said: gr.HTML
    going: list[tuple[str, threading.Event]] = field(default_factory=list)

    @property
    def idle(self) -> Updates:
        """Clear the progress."""
        return {self.said: ""}

    def follow(self, request: gr.Request, what: str, job: Generator[Progress, None, T]) -> Generator[Updates, None, T]:
        """Run a step-by-step task to its end and show its progress; `what` is shown until the first step.

        Closing this generator closes the task. Cancel closes it too and then raises Cancelled.
        """
        task = (str(request.session_hash), threading.Event())
        self.going.append(task)
        try:
            with contextlib.closing(job):
                yield {self.said: markup.doing(what)}
                while True:
                    # Checked here and not by Gradio's cancels=, so that the final message comes after all progress.
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
        """Cancel every task of this session at its next step."""
        for session, event in list(self.going):
            if session == str(request.session_hash):
                event.set()


def build(name: str) -> Busy:
    """Build the progress and its Cancel button. name: prefix of the elements' ids."""
    busy = Busy(view(f"{name}-progress"))
    cancel = gr.Button("Cancel", size="md", elem_id=f"{name}-cancel", elem_classes=["quiet-button", "cancel"])
    cancel.click(busy.cancel, None, None, queue=False, show_progress="hidden", api_visibility=PRIVATE)
    return busy
