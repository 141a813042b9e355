"""Child jobs: work in a separate process that is not a run.

A **kept job** (an evaluation, an export, a combination) has a directory with the layout of a run directory, and a
worker that outlives page and server. Its state is derived from its files and its worker, a control file cancels it,
and the keeper makes sure that it ends. A **short job** (reading a file, a dry run, preparing a model, talking to the
hub) belongs to its caller: it is a generator of Progress, and closing the generator ends the process.
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
_NOT_ENDING = "It did not end when it was cancelled, so it was killed."
_VANISHED = "Its worker ended without a message: see log.txt in its folder."


@dataclass(frozen=True, slots=True)
class Progress:
    """What a job is doing. done and of: bytes, rows or steps; of is 0 where the total is not known."""

    doing: str
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class Job:
    """State and progress of a kept job. seconds_left: at the speed so far; None where it is not known."""

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
    """A kept job.

    waits: the keeper starts it when the device is free. Otherwise its creator starts it, and one that was not started
    never will be.
    """

    folder: RunDir
    waits: bool = False

    @property
    def state(self) -> State:
        """The state of the job, derived from its files and its worker alone."""
        folder = self.folder
        # The order matters: a worker that ends in between has written its exit file by then.
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
        """The current state: the progress of its worker, or how it ended."""
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
        """Start the worker of the job; where that is not possible, the job becomes failed with the reason."""
        if workers.find(self.folder) == "unborn":
            self.folder.claim.unlink(missing_ok=True)  # its launcher died before it started anything
        try:
            workers.start(self.folder, module)
        except Unavailable as error:
            remedy = "Free what it needs, then start it again."
            Exit("failed", str(error), remedy, cause="never_started").write(self.folder)

    def cancel(self, name: str) -> None:
        """Ask the job to end and discard its result; raises Conflict when it is over. name: for the message."""
        state = self.state
        if state in FINAL:
            raise Conflict(f"{name} is already over: {state}.")
        self.folder.ask("cancel")

    def delete(self, name: str) -> None:
        """Delete the job and its result; raises Conflict while it waits or works. name: for the message."""
        if self.state not in FINAL:
            raise Conflict(f"{name} is not over. Cancel it first.")
        vanish(self.folder.path)

    def see_end(self, grace: float) -> None:
        """For the keeper: end a cancelled job that is still at work, by SIGTERM after `grace` seconds, then SIGKILL."""
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
        """Delete half-written files of a worker that vanished: for a model, these are gigabytes."""
        if workers.find(self.folder) == "gone":
            tidy(self.folder.path)


def _progress(folder: RunDir) -> tuple[Progress, float | None]:
    """The progress of its worker, and the seconds left for the current step at the speed so far."""
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
    """Yield the progress of a kept job until it is over; closing the generator leaves the job at work.

    find: reads the job again. seconds: between two reads.
    """
    while True:
        value, job = find()
        if job.final:
            return value
        if job.state == "queued":
            yield Progress("Waiting for the device, which is in use", 0, 0)
        else:
            left = "" if job.seconds_left is None else f", about {_span(job.seconds_left)} left"
            yield Progress(f"{job.progress.doing or _STARTING}{left}", job.progress.done, job.progress.of)
        time.sleep(seconds)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True, slots=True)
class ShortJob:
    """A short job: a module that prints JSON lines, {"doing", "done", "of"} and a last one with `result`, or {"error"}.

    doing: the progress text before its first line. seconds: time limit. environment: variables added to a worker's
    usual ones. server: the fork server that starts it. fault: makes the error for a line with "error"; by default
    Unavailable for a line with "unavailable", else BadInput. missing: the message when it ends without a result.
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
        """Run the job, yielding its progress; returns the line with the result. Raises Died where its process fails."""
        progress = Progress(self.doing, 0, 0)
        lines = short_tasks.follow(self.module, self.arguments, self.log, self.seconds, self.environment, self.server)
        with contextlib.closing(lines):
            for line in lines:
                if "error" in line:
                    raise (self.fault or _fault)(line)
                if self.result in line:
                    return line
                if "doing" in line:
                    progress = Progress(str(line["doing"]), int(line["done"]), int(line["of"]))
                yield progress  # repeated while it prints nothing, so that the caller can close the generator
        raise StudioError(self.missing)


def _fault(line: Mapping[str, Any]) -> StudioError:
    return (Unavailable if line.get("unavailable") else BadInput)(str(line["error"]))


def drive(job: Generator[Progress, None, T], progress: Callable[[str, int, int], None]) -> T:
    """Run a job generator to its end, passing its progress to a callback; returns its result."""
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        progress(step.doing, step.done, step.of)
