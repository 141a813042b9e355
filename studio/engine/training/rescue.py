"""Recover the last usable weights of a run that the loss guards ended.

loss_guards.py decides to end a run; engine/workers/train.py writes the adapter.
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
    """Load the last usable weights; return the exit with a message naming their step, and the step (0 for none)."""
    what = "adapter" if conductor.trained.is_adapter else "model"
    step = _choose(run, conductor, guard, watch, how)
    if step:
        of_what = "the last with finite numbers" if how.cause == "nonfinite" else "the last before the loss rose"
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
    # A diverged run without an earlier checkpoint: its current weights may still be of use.
    return guard.learned if how.cause == "diverged" and are_finite(trained.model) else 0


def are_finite(model: Any) -> bool:
    """Whether all trained parameters are finite."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters() if parameter.requires_grad)


def _checkpoints(run: RunDir, up_to: int) -> Iterator[tuple[int, Path]]:
    """Yield intact checkpoints up to that step, newest first."""
    checkpoints = [(int(path.name.removeprefix("step-")), path) for path in run.checkpoints.glob("step-[0-9]*")]
    for step, path in sorted(checkpoints, reverse=True):
        if step <= up_to and verify_folder(path) is None:
            yield step, path
