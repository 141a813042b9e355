"""The watches over a run's numbers: steps that are not finite, and a loss from which nothing is learned.

What this does not do: change a loss, or decide what is kept of a run that is given up (rescue.py).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import TrainerCallback

from studio.engine.compat.transformers import summed_loss
from studio.engine.workers.harness import Ended, Worker
from studio.recipe import Recipe
from studio.rundir import Exit

NON_FINITE_LIMIT = 3  # steps in a row


class FiniteGuard(TrainerCallback):
    """Skips the update of a step whose loss or gradients are not finite, and ends the run after three in a row."""

    def __init__(self, worker: Worker, recipe: Recipe) -> None:
        self._worker, self._recipe = worker, recipe
        self._bad_step = False
        self._in_a_row = 0
        self._in_window = False
        self.learned = 0  # the last step whose update was taken
        self.trainer: Any = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"in_a_row": self._in_a_row, "in_window": self._in_window, "learned": self.learned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as from `state`."""
        self._in_a_row, self._in_window, self.learned = state["in_a_row"], state["in_window"], state["learned"]

    def loss_of_window(self, loss: float) -> float:
        """The loss to journal: nan when a step since the last point had none."""
        bad, self._in_window = self._in_window, False
        return math.nan if bad else loss

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        model = things["model"]
        if self._loss_is_finite() and all(
            bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None
        ):
            return
        self._bad_step = True
        # Without gradients the optimizer leaves the weights alone: one bad batch does not spoil the adapter.
        model.zero_grad(set_to_none=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if not self._bad_step:
            self._in_a_row, self.learned = 0, state.global_step
            return
        self._bad_step, self._in_window = False, True
        self._in_a_row += 1
        if not self._loss_is_finite():
            # The trainer's running sum would stay nan for good: nan - nan is nan.
            summed_loss(self.trainer).zero_()
        self._worker.note(
            "warning",
            f"Step {state.global_step}: the loss or its gradients are not finite numbers. "
            "The step is skipped; the adapter is as before.",
        )
        if self._in_a_row >= NON_FINITE_LIMIT:
            self._give_up(state.global_step)

    def _give_up(self, step: int) -> None:
        rate = self._recipe.optimizer.learning_rate
        raise Ended(
            Exit(
                "failed",
                f"The loss was not a finite number in {self._in_a_row} steps in a row, up to step {step}.",
                f"Lower learning_rate (now {rate:g}), raise warmup_ratio, or set dtype to float32. "
                "If it happens at step 1, look at the examples.",
                cause="nonfinite",
            )
        )

    def _loss_is_finite(self) -> bool:
        return bool(summed_loss(self.trainer).isfinite())


HALF_LIFE = 5  # points after which a point counts half in the smoothed loss
BEGINNING = 5  # points whose mean is where the run began
RISEN = 5  # points in a row before it is said
DIVERGED = 50  # points in a row before the run is ended
ZERO_NOTED, ZERO_LIMIT = 3, 20  # points in a row with a loss of exactly 0


@dataclass(slots=True)
class Course:
    """How the loss went so far. began: mean of the first points; rising, lost, zero: points in a row."""

    points: int = 0
    smoothed: float = 0.0
    began: float = 0.0
    best: float = math.inf
    rising: int = 0
    risen_from: int = 0  # the step before the loss began to rise
    lost: int = 0
    zero: int = 0
    noted: bool = False


class DivergenceGuard(TrainerCallback):
    """Says when the loss rises instead of falling, and ends a run that cannot come back, or has nothing to learn.

    The loss is smoothed over the journal's points (half-life 5), as single batches differ by a factor of two; a point
    that is itself low again ends a row, or a spike would echo in the smoothed loss. `uniform` is ln(vocabulary), the
    loss of a model that holds every token for equally likely: about 11 for 50,000 tokens.

    - Said once, after 5 points in a row: the smoothed loss is over three times its lowest *and* above that of the
      run's first 5 points (worse than untrained; noise and hard batches double a loss, they do not do that), or over
      1.25 times `uniform` and the beginning (only a model that is sure of wrong tokens scores worse than guessing).
    - Ended, after 50 points in a row: over twice `uniform` and twice the beginning. A spike in the warmup is over in
      fewer. Tiny untrained models were seen to come back after 30 to 60 steps, to guessing the commonest tokens: what
      a base had learned before would be lost by then.
    - A loss of exactly 0: said after 3 points, ended after 20. Either no token is trained, or the loss has fallen
      under the rounding of float32 and its gradients are 0 as well.
    """

    def __init__(self, worker: Worker, recipe: Recipe, vocabulary: int) -> None:
        self._worker, self._recipe = worker, recipe
        self._uniform = math.log(max(vocabulary, 2))
        self.course = Course()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self.course)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as from `state`."""
        self.course = Course(**state)

    def on_log(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        logs = things["logs"]
        if "loss" in logs and math.isfinite(logs["loss"]):
            self.see(logs["loss"], logs.get("learning_rate", 0.0), state.global_step)

    def see(self, loss: float, rate: float, step: int) -> None:
        """Take one point of the journal."""
        self._zero(loss, step)
        course = self.course
        course.points += 1
        fresh = 1 - 0.5 ** (1 / HALF_LIFE)
        # While there are few points, their plain mean.
        course.smoothed += (loss - course.smoothed) * max(fresh, 1 / course.points)
        if course.points <= BEGINNING:
            course.began = course.smoothed
        guess, worst = self._uniform, max(self._uniform, course.began)
        high = course.smoothed > 1.25 * worst or (course.smoothed > 3 * course.best and course.smoothed > course.began)
        course.best = min(course.best, course.smoothed)
        course.rising = course.rising + 1 if high and loss > course.began else 0
        if not course.rising:
            course.risen_from = step
        course.lost = course.lost + 1 if course.smoothed > 2 * worst and loss > worst else 0
        if course.rising >= RISEN and not course.noted:
            course.noted = True
            self._worker.note(
                "warning",
                f"Step {step}: the loss has risen from {course.best:.2f} to {course.smoothed:.2f} (both smoothed; "
                f"guessing scores {guess:.1f}). learning_rate is probably too high: it is {rate:.2g} at this step.",
            )
        if course.lost >= DIVERGED:
            raise Ended(
                Exit(
                    "failed",
                    f"The loss has risen from {course.best:.2f} to {course.smoothed:.2f} up to step {step} and does "
                    f"not come back; guessing scores {guess:.1f}.",
                    f"Lower learning_rate (now {self._recipe.optimizer.learning_rate:g}) to a tenth, or raise "
                    "warmup_ratio.",
                    cause="diverged",
                )
            )

    def _zero(self, loss: float, step: int) -> None:
        course = self.course
        course.zero = course.zero + 1 if loss == 0 else 0
        if course.zero == ZERO_NOTED:
            self._worker.note(
                "warning",
                f"Step {step}: the loss is exactly 0 for {ZERO_NOTED} points in a row. Nothing is learned from it.",
            )
        if course.zero >= ZERO_LIMIT:
            raise Ended(
                Exit(
                    "failed",
                    f"The loss was exactly 0 for {ZERO_LIMIT} points in a row, up to step {step}: there is nothing "
                    "left to learn from these examples.",
                    "Look at the trained tokens on the Data page; with few examples use fewer num_train_epochs.",
                    cause="unlearnable",
                )
            )
