"""How much of the disk checkpoints take, and how they are kept within a budget."""

import contextlib
import shutil
from dataclasses import dataclass

from studio.errors import Conflict
from studio.rundir import RunDir, newest_checkpoint, read_json, verify_folder
from studio.services.core.studio import Studio
from studio.services.runs import ends, runs


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk; fault: empty when its files match its manifest, else what does not."""

    step: int
    bytes: int
    fault: str


def checkpoints(run: RunDir) -> list[Checkpoint]:
    """The checkpoints of a run, ascending, each verified: every file is read."""
    found = []
    for step in ends.checkpoint_steps(run):
        folder = run.checkpoints / f"step-{step}"
        found.append(Checkpoint(step, _size(run, step), verify_folder(folder) or ""))
    return found


def taken(run: RunDir) -> int:
    """Bytes that a run's checkpoints take."""
    return sum(_size(run, step) for step in ends.checkpoint_steps(run))


def prune(studio: Studio, run_id: str) -> list[int]:
    """Delete the oldest checkpoints of a run that is over until they keep to checkpoint_gb; returns their steps.

    The best, the last and the newest that verifies always stay. Without a budget nothing goes.
    """
    info = runs.get(studio, run_id)
    if not info.final:
        raise Conflict(f"Run {info.name} is {info.state}: its worker looks after its checkpoints.")
    return keep_within(studio.run_dir(info.id), int(studio.settings.checkpoint_gb * 2**30))


def keep_within(run: RunDir, budget: int) -> list[int]:
    """As prune, for the keeper; budget in bytes, 0 for none."""
    if not budget or taken(run) <= budget:
        return []
    steps, newest = ends.checkpoint_steps(run), newest_checkpoint(run)
    if newest is None:
        return []  # nothing that is known to be good: nothing is thrown away
    spared = {steps[-1], int(newest.name.removeprefix("step-")), _best(run, steps)}
    gone = []
    for step in steps:
        if taken(run) <= budget:
            break
        if step not in spared:
            folder = run.checkpoints / f"step-{step}"
            # Out of sight first: a kill in between must not leave half a checkpoint under its name.
            aside = folder.rename(folder.with_name(f".{folder.name}.old"))
            shutil.rmtree(aside, ignore_errors=True)
            gone.append(step)
    return gone


def _best(run: RunDir, steps: list[int]) -> int | None:
    """The step that the newest checkpoint's own record calls the best, if it has a checkpoint."""
    state = read_json(run.checkpoints / f"step-{steps[-1]}" / "trainer_state.json") or {}
    losses = {
        int(line["step"]): float(line["eval_loss"])
        for line in state.get("log_history", [])
        if isinstance(line, dict) and "eval_loss" in line and line.get("step") in steps
    }
    return min(losses, key=lambda step: losses[step]) if losses else None


def _size(run: RunDir, step: int) -> int:
    size = 0
    for path in (run.checkpoints / f"step-{step}").rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a running worker may take it away
            size += path.stat().st_size if path.is_file() else 0
    return size
