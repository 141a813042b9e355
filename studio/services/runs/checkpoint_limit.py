"""Disk usage of checkpoints, and pruning them to a budget."""

import contextlib
import shutil
from dataclasses import dataclass

from studio.errors import Conflict
from studio.rundir import RunDir, newest_checkpoint, read_json, verify_folder
from studio.services.core.studio import Studio
from studio.services.runs import ends, runs


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk. fault: empty if its files match its manifest, else the mismatch."""

    step: int
    bytes: int
    fault: str


def checkpoints(run: RunDir) -> list[Checkpoint]:
    """The checkpoints of a run, ascending by step, each verified by reading every file."""
    verified = []
    for step in ends.checkpoint_steps(run):
        folder = run.checkpoints / f"step-{step}"
        verified.append(Checkpoint(step, _size(run, step), verify_folder(folder) or ""))
    return verified


def taken(run: RunDir) -> int:
    """Total size of a run's checkpoints in bytes."""
    return sum(_size(run, step) for step in ends.checkpoint_steps(run))


def prune(studio: Studio, run_id: str) -> list[int]:
    """Delete the oldest checkpoints of a run that is over until the rest fit checkpoint_gb; returns their steps.

    The best, the last and the newest that verifies are always kept. Without a budget nothing is deleted.
    """
    info = runs.get(studio, run_id)
    if not info.final:
        raise Conflict(f"Run {info.name} is {info.state}: its worker manages its checkpoints until it ends.")
    return keep_within(studio.run_dir(info.id), int(studio.settings.checkpoint_gb * 2**30))


def keep_within(run: RunDir, budget: int) -> list[int]:
    """Same as `prune`, for the keeper. budget: bytes, 0 for no limit."""
    if not budget or taken(run) <= budget:
        return []
    steps, newest = ends.checkpoint_steps(run), newest_checkpoint(run)
    if newest is None:
        return []  # no checkpoint is known to be good: delete none
    spared = {steps[-1], int(newest.name.removeprefix("step-")), _best(run, steps)}
    deleted = []
    for step in steps:
        if taken(run) <= budget:
            break
        if step not in spared:
            folder = run.checkpoints / f"step-{step}"
            # Hide it first: a kill in between must not leave half a checkpoint under its name.
            hidden = folder.rename(folder.with_name(f".{folder.name}.old"))
            shutil.rmtree(hidden, ignore_errors=True)
            deleted.append(step)
    return deleted


def _best(run: RunDir, steps: list[int]) -> int | None:
    """The step with the lowest evaluation loss in the newest checkpoint's log, among steps with a checkpoint."""
    state = read_json(run.checkpoints / f"step-{steps[-1]}" / "trainer_state.json") or {}
    losses = {
        int(record["step"]): float(record["eval_loss"])
        for record in state.get("log_history", [])
        if isinstance(record, dict) and "eval_loss" in record and record.get("step") in steps
    }
    return min(losses, key=lambda step: losses[step]) if losses else None


def _size(run: RunDir, step: int) -> int:
    size = 0
    for path in (run.checkpoints / f"step-{step}").rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a running worker may delete it
            size += path.stat().st_size if path.is_file() else 0
    return size
