"""Longer tasks on a page: what is being done, how far it is, and a button that ends it."""

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from studio.services.checks import Progress
from studio.ui import markup
from studio.ui.handlers import PRIVATE, Updates, view

T = TypeVar("T")


@dataclass(frozen=True)
class Busy:
    """A place for what is being done and its Cancel button; both are hidden while nothing is."""

    said: gr.HTML
    cancel: gr.Button

    @property
    def parts(self) -> list[Any]:
        return [self.said, self.cancel]

    @property
    def idle(self) -> Updates:
        """Nothing is being done any more."""
        return {self.said: "", self.cancel: gr.update(visible=False)}

    def starts(self, what: str) -> Updates:
        return {self.said: markup.doing(what), self.cancel: gr.update(visible=True)}

    def follow(self, job: Generator[Progress, None, T]) -> Generator[Updates, None, T]:
        """Run a step-by-step task to its end, saying how far it is. Closing this closes the task."""
        with contextlib.closing(job):
            while True:
                try:
                    step = next(job)
                except StopIteration as end:
                    return end.value
                yield {self.said: markup.doing(step.doing, step.done, step.of), self.cancel: gr.update(visible=True)}

    def ends(self, events: Iterable[Any], notice: gr.HTML) -> None:
        """Let Cancel end these events and say that nothing came of it."""
        words = markup.note("Cancelled. Nothing was changed.")
        self.cancel.click(
            lambda: {**self.idle, notice: words},
            None,
            [*self.parts, notice],
            cancels=list(events),
            show_progress="hidden",
            queue=False,
            api_visibility=PRIVATE,
        )


def build(name: str) -> Busy:
    """name: what the elements' ids begin with."""
    said = view(f"{name}-progress")
    return Busy(
        said, gr.Button("Cancel", visible=False, size="md", elem_id=f"{name}-cancel", elem_classes="quiet-button")
    )
