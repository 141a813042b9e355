"""The workers of one run, one after another: what an earlier one left is put by before the next is started.

A wish to go on is `resume.json` with the number of the next attempt; it is written whole, by anyone, and makes the
run wait in the queue. The keeper then moves the earlier worker's files to `attempts/N/`: first into a folder out of
sight, which is renamed when all are in it. A keeper that is killed in between finishes the move at its next look.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from studio.rundir import RunDir, read_json, write_json


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next worker is told. checkpoint: to go on from, or nothing; None: as the recipe says."""

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
    """Which worker of the run, counted from 1, the files in the run directory itself are of."""
    return 1 + len(earlier(run))


def earlier(run: RunDir) -> list[RunDir]:
    """What earlier workers left, oldest first."""
    if not run.attempts.is_dir():
        return []
    found = [path for path in run.attempts.iterdir() if path.name.isdigit()]
    return [RunDir(path) for path in sorted(found, key=lambda path: int(path.name))]


def is_wanted(run: RunDir) -> bool:
    """Whether someone wants the run to go on, and the earlier worker's files are not put by yet."""
    plan = Plan.read(run)
    return plan is not None and plan.attempt > current(run)


def put_by(run: RunDir) -> None:
    """Move the earlier worker's files away; doing it again finishes what a kill cut short."""
    number = current(run)
    aside = run.attempts / f".{number}.tmp"
    aside.mkdir(parents=True, exist_ok=True)
    for path in _files(run):
        if path.exists():
            path.replace(aside / path.name)
    aside.rename(run.attempts / str(number))


def forget_wishes(run: RunDir) -> None:
    """Take away what was asked of a worker that is over: it is not meant for the next."""
    for path in run.control.glob("*"):
        path.unlink(missing_ok=True)


def _files(run: RunDir) -> tuple[Path, ...]:
    return run.worker, run.claim, run.heartbeat, run.ended, run.exit
