"""Longer tasks on a page: one stream of updates, which Cancel ends and nothing follows."""

from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.ui.parts import busy
from studio.ui.parts.handlers import Updates, view, with_notice_while


class Job:
    """A task that takes three steps and remembers how it ended."""

    def __init__(self) -> None:
        self.ended = ""

    def steps(self) -> Generator[Progress, None, str]:
        try:
            for step in range(3):
                yield Progress("Reading", step, 3)
        except GeneratorExit:
            self.ended = "closed"
            raise
        self.ended = "done"
        return "result"


@pytest.fixture
def made() -> tuple[busy.Busy, gr.HTML]:
    with gr.Blocks():
        return busy.build("check"), view("notice")


def of(session: str) -> Any:
    return SimpleNamespace(session_hash=session)


def handler(made: tuple[busy.Busy, gr.HTML], studio: Studio, job: Job, session: str) -> Iterator[Updates]:
    task, notice = made

    def handle() -> Iterator[Updates]:
        result = yield from task.follow(of(session), "Starting", job.steps())
        yield {notice: result}

    return with_notice_while(studio, notice, handle, task.idle)()


def test_cancel_ends_the_stream_with_its_word(made: tuple[busy.Busy, gr.HTML], studio: Studio) -> None:
    task, notice = made
    job = Job()
    updates = handler(made, studio, job, "a")
    assert "Starting" in next(updates)[task.said]
    assert "Reading" in next(updates)[task.said]
    task.cancel(of("a"))
    last = next(updates)
    assert (last[task.said], job.ended) == ("", "closed")
    assert "Cancelled. Nothing was changed." in last[notice]
    assert list(updates) == []
    assert task.going == []


def test_cancel_at_the_first_word_does_not_begin(made: tuple[busy.Busy, gr.HTML], studio: Studio) -> None:
    task, notice = made
    updates = handler(made, studio, Job(), "a")
    next(updates)
    task.cancel(of("a"))
    assert ["Cancelled" in update.get(notice, "") for update in updates] == [True]


def test_cancel_is_for_its_own_session_and_for_what_goes_on(made: tuple[busy.Busy, gr.HTML], studio: Studio) -> None:
    task, notice = made
    task.cancel(of("a"))  # nothing goes on yet, so nothing is kept of it
    mine, job = handler(made, studio, Job(), "a"), Job()
    other = handler(made, studio, job, "b")
    next(mine), next(other)
    task.cancel(of("a"))
    assert "Cancelled" in list(mine)[-1][notice]
    assert {notice: "result"} in list(other)
    assert (job.ended, task.going) == ("done", [])


def test_a_page_that_is_closed_ends_its_task(made: tuple[busy.Busy, gr.HTML], studio: Studio) -> None:
    task, _ = made
    job = Job()
    updates = handler(made, studio, job, "a")
    next(updates), next(updates)
    updates.close()  # type: ignore[attr-defined]
    assert (job.ended, task.going) == ("closed", [])
