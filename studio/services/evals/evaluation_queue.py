"""Queue of evaluations for the device, as for runs: one at a time, never during a training, in the order of requests.

Used by the keeper. Nothing is in the database: an evaluation's state comes from its directory and its worker.
"""

from dataclasses import dataclass

from studio.evaluation.files import ORDER
from studio.rundir import RunDir, read_json
from studio.services.core import jobs
from studio.services.core.jobs import KeptJob
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio

WORKER = "studio.engine.workers.evaluate"


@dataclass(frozen=True, slots=True)
class Line:
    """Evaluations in progress, and those waiting, the next to start first, each with the time of its request."""

    active: list[RunDir]
    waiting: list[tuple[float, RunDir]]


def job_of(folder: RunDir) -> KeptJob:
    """The evaluation in this directory as a job that waits for the device."""
    return KeptJob(folder, waits=True)


def look(studio: Studio) -> Line:
    """Evaluations that are not over. Ends cancelled ones that do not stop by themselves."""
    for folder in jobs.cancelled_in(studio.settings.evaluations):
        job_of(folder).see_end(studio.settings.stop_grace)
    line = Line([], [])
    for path in studio.settings.evaluations.iterdir():
        folder = RunDir(path)
        if path.name.startswith(".") or folder.exit.exists():
            continue
        state = job_of(folder).state
        if state == "queued":
            line.waiting.append((float((read_json(path / ORDER) or {}).get("created", 0)), folder))
        elif state not in FINAL:
            line.active.append(folder)
    line.waiting.sort(key=lambda item: item[0])
    return line


def at_work(studio: Studio) -> bool:
    """Whether an evaluation is using the device."""
    return bool(look(studio).active)


def start(folder: RunDir) -> None:
    """Start the worker of a waiting evaluation."""
    job_of(folder).start(WORKER)
