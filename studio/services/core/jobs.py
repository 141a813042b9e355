"""The life of a child job: work in a process of its own that is not a run.

A **kept job** (an evaluation, an export, a combination) has a directory, laid out as a run's, and a worker that
outlives page and server: its state is what its files and its worker say, it is cancelled by a control file, and the
keeper sees it end. A **short job** (reading a file, a dry run, preparing a model, talking to the hub) belongs to
whoever asked: it is a generator of Progress, and closing that ends the process.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.launch import short_tasks, workers
from studio.launch.forkserver import ForkServer
from studio.rundir import Exit, RunDir, read_events, tidy, vanish
from studio.services.core.states import FINAL, State

T = TypeVar("T")
_STARTING = "Starting the worker"
_NOT_BEGUN = "It was cancelled before it began."
_NOT_ENDING = "It did not end when it was cancelled, and was ended."
_VANISHED = "Its worker ended without a word: see log.txt in its folder."


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done; done and of in bytes, rows or steps, of is 0 where the end is not known."""

    doing: str
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class Job:
    """Where a kept job stands. seconds_left: at the speed so far; None where that cannot be told."""

    state: State
    progress: Progress = Progress("", 0, 0)
    seconds_left: float | None = None
    message: str = ""
    remedy: str = ""

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A kept job. waits: the keeper starts it when the device is free; otherwise whoever made it has started it, and
    one that was not started never will be."""

    folder: RunDir
    waits: bool = False

    @property
    def state(self) -> State:
        """Its state, from its files and its worker alone."""
        folder = self.folder
        # In this order: a worker that ends in between has written its exit before it goes.
        process, end = workers.find(folder), Exit.read(folder)
        if end is not None:
            return end.state
        if self.waits and process in ("never", "unborn"):
            return "queued"
        if process not in ("alive", "claimed"):
            return "interrupted"
        if folder.asked("cancel"):
            return "stopping"
        return "starting" if process == "claimed" else "running"

    def look(self) -> Job:
        """Where it stands: what its worker is at, or how it ended."""
        state, end = self.state, Exit.read(self.folder)
        if end is not None:
            return Job(end.state, message=end.message, remedy=end.remedy)
        if state == "interrupted":
            return Job(state, message=_VANISHED, remedy="Start it again.")
        if state == "queued":
            return Job(state)
        progress, left = _progress(self.folder)
        return Job(state, progress, left)

    def start(self, module: str) -> None:
        """Start its worker; where that cannot be done, the job has failed and says why."""
        if workers.find(self.folder) == "unborn":
            self.folder.claim.unlink(missing_ok=True)  # its launcher died before it started anything
        try:
            workers.start(self.folder, module)
        except Unavailable as error:
            remedy = "Free what it needs, then start it again."
            Exit("failed", str(error), remedy, cause="never_started").write(self.folder)

    def cancel(self, name: str) -> None:
        """Ask it to end, of which nothing is kept then; raises Conflict when it is over. name: for the message."""
        state = self.state
        if state in FINAL:
            raise Conflict(f"{name} is already over: {state}.")
        self.folder.ask("cancel")

    def delete(self, name: str) -> None:
        """Delete it and what it made; raises Conflict while it waits or is at work. name: for the message."""
        if self.state not in FINAL:
            raise Conflict(f"{name} is not over. Cancel it first.")
        vanish(self.folder.path)

    def see_end(self, grace: float) -> None:
        """For the keeper: end one that was cancelled and goes on, first kindly. grace: seconds that it is given."""
        try:
            asked = (self.folder.control / "cancel").stat().st_mtime
        except FileNotFoundError:
            return
        state, over = self.state, time.time() - asked - grace
        if state == "queued":
            Exit("stopped", _NOT_BEGUN, cause="cancelled").write(self.folder)
        elif state in FINAL:
            return
        elif over > grace / 2:
            Exit("stopped", _NOT_ENDING, cause="cancelled").write(self.folder)
            workers.signal(self.folder, signal.SIGKILL)
        elif over > 0:
            workers.signal(self.folder, signal.SIGTERM)

    def clear_leftovers(self) -> None:
        """Delete what a worker that vanished left half-written: of a model that is gigabytes."""
        if workers.find(self.folder) == "gone":
            tidy(self.folder.path)


def _progress(folder: RunDir) -> tuple[Progress, float | None]:
    """What its worker is at, and the seconds that this will still take at the speed so far."""
    events = [event for event in read_events(folder.events).events if event.kind == "progress"]
    if not events:
        return Progress(_STARTING, 0, 0), None
    last = events[-1]
    what, done, of = str(last.payload["what"]), int(last.payload.get("done", 0)), int(last.payload.get("of", 0))
    began = next(event.time for event in events if event.payload["what"] == what)
    left = (last.time - began) / done * (of - done) if 0 < done <= of else None
    return Progress(what, done, of), left


def cancelled_in(root: Path) -> Iterator[RunDir]:
    """The directories of kept jobs in `root` that were cancelled and are not over."""
    for path in root.glob("*/control/cancel"):
        folder = RunDir(path.parents[1])
        if not folder.exit.exists():
            yield folder


def following(find: Callable[[], tuple[T, Job]], seconds: float) -> Generator[Progress, None, T]:
    """How far a kept job is, again and again until it is over; closing this leaves it at work.

    find: looks at it anew. seconds: between two looks.
    """
    while True:
        value, job = find()
        if job.final:
            return value
        if job.state == "queued":
            yield Progress("Waiting for the device: something else is at work on it", 0, 0)
        else:
            left = "" if job.seconds_left is None else f", about {_span(job.seconds_left)} left"
            yield Progress(f"{job.progress.doing or _STARTING}{left}", job.progress.done, job.progress.of)
        time.sleep(seconds)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True, slots=True)
class ShortJob:
    """A short job: a module that prints JSON lines, {"doing", "done", "of"} and at last one with `result`, or
    {"error"}.

    doing: what is said until it says something itself. seconds: the most it may take. environment: beside a worker's
    usual one. server: what forks it. fault: the error for a line with "error" in it; without one a line that says
    "unavailable" is Unavailable, and any other BadInput. missing: what is said where it ends without a result.
    """

    module: str
    arguments: Sequence[str]
    log: Path
    result: str
    doing: str = _STARTING
    seconds: float | None = None
    environment: Mapping[str, str] | None = None
    server: ForkServer | None = None
    fault: Callable[[Mapping[str, Any]], StudioError] | None = None
    missing: str = "It ended without a result. Try again."

    def run(self) -> Generator[Progress, None, dict[str, Any]]:
        """Run it to its end, step by step; returns the line with the result. Raises Died where its process fails."""
        at = Progress(self.doing, 0, 0)
        lines = short_tasks.follow(self.module, self.arguments, self.log, self.seconds, self.environment, self.server)
        with contextlib.closing(lines):
            for line in lines:
                if "error" in line:
                    raise (self.fault or _fault)(line)
                if self.result in line:
                    return line
                if "doing" in line:
                    at = Progress(str(line["doing"]), int(line["done"]), int(line["of"]))
                yield at  # again while it is silent, so that the asker may turn away
        raise StudioError(self.missing)


def _fault(line: Mapping[str, Any]) -> StudioError:
    return (Unavailable if line.get("unavailable") else BadInput)(str(line["error"]))


def drive(job: Generator[Progress, None, T], progress: Callable[[str, int, int], None]) -> T:
    """Run a step-by-step job to its end."""
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        progress(step.doing, step.done, step.of)
