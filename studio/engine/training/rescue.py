"""What is kept of a run that its watches gave up: the last weights that are good for something.

What this does not do: decide that a run is given up (loss_guards.py), or write the adapter (engine/workers/train.py).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.engine.training.callbacks import CheckpointControl
from studio.engine.training.loss_guards import DivergenceGuard, FiniteGuard
from studio.rundir import Cause, Exit, RunDir, verify_folder

GIVEN_UP: tuple[Cause, ...] = ("nonfinite", "diverged", "unlearnable")


def last_finite_weights(
    run: RunDir, conductor: CheckpointControl, guard: FiniteGuard, watch: DivergenceGuard, how: Exit
) -> tuple[Exit, int]:
    """Bring good weights into the model; returns the end, which says which, and their step: 0 when there are none."""
    what = "adapter" if conductor.trained.is_adapter else "model"
    step = _choose(run, conductor, guard, watch, how)
    if step:
        of_what = "the last with finite numbers" if how.cause == "nonfinite" else "the last before that"
        if how.cause == "unlearnable" or (how.cause == "diverged" and step >= guard.learned):
            of_what = "the last one"
        return replace(how, message=f"{how.message} The {what} of step {step}, {of_what}, is saved."), step
    return replace(how, message=f"{how.message} Nothing was learned, so no {what} is saved."), 0


def _choose(run: RunDir, conductor: CheckpointControl, guard: FiniteGuard, watch: DivergenceGuard, how: Exit) -> int:
    trained = conductor.trained
    before = watch.course.risen_from if how.cause == "diverged" else guard.learned
    if how.cause != "diverged" and guard.learned and are_finite(trained.model):
        return guard.learned
    for step, folder in _checkpoints(run, before):
        trained.load(folder)
        if are_finite(trained.model):
            return step
    # A diverged run without an earlier checkpoint: its present weights may still tell something.
    return guard.learned if how.cause == "diverged" and are_finite(trained.model) else 0


def are_finite(model: Any) -> bool:
    """Whether all trained numbers are finite."""
    return all(bool(one.isfinite().all()) for one in model.parameters() if one.requires_grad)


def _checkpoints(run: RunDir, up_to: int) -> Iterator[tuple[int, Path]]:
    """Whole checkpoints up to that step, the newest first."""
    found = [(int(path.name.removeprefix("step-")), path) for path in run.checkpoints.glob("step-[0-9]*")]
    for step, path in sorted(found, reverse=True):
        if step <= up_to and verify_folder(path) is None:
            yield step, path
