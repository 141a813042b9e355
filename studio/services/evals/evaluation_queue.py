"""Evaluations wait for the device like runs do: one at a time, never beside a training, in the order of asking.

The keeper's part. Nothing of it stands in the database: an evaluation's state is what its directory and its worker say.
"""

import signal
import time
from dataclasses import dataclass

from studio.errors import Unavailable
from studio.evaluation.files import ORDER
from studio.launch import workers
from studio.rundir import Exit, RunDir, read_json
from studio.services.core.states import State
from studio.services.core.studio import Studio

WORKER = "studio.engine.workers.evaluate"
_BEFORE_IT_BEGAN = "It was cancelled before it began."


@dataclass(frozen=True, slots=True)
class Line:
    """Evaluations that are worked on, and those that wait, the next to start first, with when they were asked for."""

    active: list[RunDir]
    waiting: list[tuple[float, RunDir]]


def state_of(folder: RunDir) -> State:
    """The state of an evaluation, from its files and its worker alone."""
    # In this order: a worker that ends in between has written its exit before it goes.
    found, end = workers.find(folder), Exit.read(folder)
    if end is not None:
        return end.state
    if found in ("never", "unborn"):
        return "queued"
    if found == "gone":
        return "interrupted"
    if folder.asked("cancel"):
        return "stopping"
    return "starting" if found == "claimed" else "running"


def look(studio: Studio) -> Line:
    """Look at all that are not over; ends those that were cancelled before they began or do not end by themselves."""
    line = Line([], [])
    for path in studio.settings.evaluations.iterdir():
        folder = RunDir(path)
        if path.name.startswith(".") or folder.exit.exists():
            continue
        state = state_of(folder)
        if state == "queued" and folder.asked("cancel"):
            Exit("stopped", _BEFORE_IT_BEGAN, cause="cancelled").write(folder)
        elif state == "queued":
            line.waiting.append((float((read_json(path / ORDER) or {}).get("created", 0)), folder))
        elif state != "interrupted":
            line.active.append(folder)
            _see_it_end(studio, folder)
    line.waiting.sort(key=lambda item: item[0])
    return line


def at_work(studio: Studio) -> bool:
    """Whether an evaluation has the device."""
    return bool(look(studio).active)


def start(folder: RunDir) -> None:
    """Start the worker of an evaluation that waits."""
    if workers.find(folder) == "unborn":
        folder.claim.unlink(missing_ok=True)  # its launcher died before it started anything
    try:
        workers.start(folder, WORKER)
    except Unavailable as error:
        Exit("failed", str(error), "Free what it needs, then evaluate again.", cause="never_started").write(folder)


def _see_it_end(studio: Studio, folder: RunDir) -> None:
    """One that was cancelled and goes on is signalled, first kindly."""
    try:
        asked = (folder.control / "cancel").stat().st_mtime
    except FileNotFoundError:
        return
    over = time.time() - asked - studio.settings.stop_grace
    if over > studio.settings.stop_grace / 2:
        Exit("stopped", "It did not end when it was cancelled, and was ended.", cause="cancelled").write(folder)
        workers.signal(folder, signal.SIGKILL)
    elif over > 0:
        workers.signal(folder, signal.SIGTERM)
