"""Attempts: the successive workers of one run. The files of each are archived before the next one starts.

A request to resume is `resume.json` with the number of the next attempt; any process may write it, atomically, and it
puts the run into the queue. The keeper then moves the earlier worker's files to `attempts/N/`: first into a hidden
folder, which is renamed when all files are in it. After a kill in between, the next look finishes the move.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from studio.rundir import RunDir, read_json, write_json


@dataclass(frozen=True, slots=True)
class Plan:
    """Instructions for the next worker.

    checkpoint: to resume from, or empty. num_train_epochs and max_steps: None for the values of the recipe.
    """

    attempt: int
    checkpoint: str
    num_train_epochs: float | None = None
    max_steps: int | None = None

    def write(self, run: RunDir) -> None:
        write_json(run.resume, asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.resume)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


def current(run: RunDir) -> int:
    """The number, from 1, of the worker whose files are in the run directory itself."""
    return 1 + len(earlier(run))


def earlier(run: RunDir) -> list[RunDir]:
    """The archived files of earlier workers, oldest first."""
    if not run.attempts.is_dir():
        return []
    folders = [path for path in run.attempts.iterdir() if path.name.isdigit()]
    return [RunDir(path) for path in sorted(folders, key=lambda path: int(path.name))]


def is_wanted(run: RunDir) -> bool:
    """Whether a resume was requested, and the earlier worker's files are not archived yet."""
    plan = Plan.read(run)
    return plan is not None and plan.attempt > current(run)


def put_by(run: RunDir) -> None:
    """Archive the earlier worker's files; a second call finishes a move that was interrupted by a kill."""
    number = current(run)
    hidden = run.attempts / f".{number}.tmp"
    hidden.mkdir(parents=True, exist_ok=True)
    for path in _files(run):
        if path.exists():
            path.replace(hidden / path.name)
    hidden.rename(run.attempts / str(number))


def forget_wishes(run: RunDir) -> None:
    """Delete control files meant for a worker that is over, so that the next one does not see them."""
    for path in run.control.glob("*"):
        path.unlink(missing_ok=True)


def _files(run: RunDir) -> tuple[Path, ...]:
    return run.worker, run.claim, run.heartbeat, run.ended, run.exit
