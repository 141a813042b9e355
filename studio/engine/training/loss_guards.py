"""Guards against non-finite steps and against a loss from which nothing is learned.

They do not change the loss; rescue.py decides what is kept of a run that they end.
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
    """Skip the update of a step whose loss or gradients are not finite; end the run after three in a row."""

    def __init__(self, worker: Worker, recipe: Recipe) -> None:
        self._worker, self._recipe = worker, recipe
        self._bad_step = False
        self._in_a_row = 0
        self._in_window = False
        self.learned = 0  # the last step whose update was applied
        self.trainer: Any = None

    def state(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return {"in_a_row": self._in_a_row, "in_window": self._in_window, "learned": self.learned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._in_a_row, self._in_window, self.learned = state["in_a_row"], state["in_window"], state["learned"]

    def loss_of_window(self, loss: float) -> float:
        """The loss to journal: nan if a step since the last point was not finite."""
        bad, self._in_window = self._in_window, False
        return math.nan if bad else loss

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        model = things["model"]
        if self._loss_is_finite() and all(
            bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None
        ):
            return
        self._bad_step = True
        # Without gradients the optimizer changes no weight, so that one bad batch does not spoil the adapter.
        model.zero_grad(set_to_none=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if not self._bad_step:
            self._in_a_row, self.learned = 0, state.global_step
            return
        self._bad_step, self._in_window = False, True
        self._in_a_row += 1
        if not self._loss_is_finite():
            # Otherwise the trainer's running sum would stay nan: nan - nan is nan.
            summed_loss(self.trainer).zero_()
        self._worker.note(
            "warning",
            f"Step {state.global_step}: the loss or its gradients are not finite numbers. "
            "The step is skipped and the adapter unchanged.",
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
BEGINNING = 5  # points whose mean is the initial loss
RISEN = 5  # points in a row before the warning
DIVERGED = 50  # points in a row before the run is ended
ZERO_NOTED, ZERO_LIMIT = 3, 20  # points in a row with a loss of exactly 0


@dataclass(slots=True)
class Course:
    """Statistics of the loss so far. began: mean of the first points; rising, lost, zero: points in a row."""

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
    """Warn when the loss rises, and end a run that has diverged or has nothing left to learn.

    The loss is smoothed over the journal's points (half-life 5), because single batches differ by a factor of two. A
    point that is itself low again ends a row; otherwise a spike would echo in the smoothed loss. `uniform` is
    ln(vocabulary), the loss of a model for which every token is equally likely: about 11 for 50,000 tokens.

    - Warn once, after 5 points in a row: the smoothed loss is over three times its lowest *and* above that of the run's
      first 5 points (worse than untrained; noise and hard batches double a loss, but do not do that), or over 1.25
      times both `uniform` and the initial loss (only a model that is sure of wrong tokens is worse than guessing).
    - End the run after 50 points in a row over twice `uniform` and twice the initial loss. A spike during warmup is
      shorter. Tiny untrained models recovered after 30 to 60 steps, but only to guessing the most common tokens: by
      then everything the base had learned would be lost.
    - A loss of exactly 0: warn after 3 points, end after 20. Either no token is trained, or the loss is below the
      precision of float32 and its gradients are 0 as well.
    """

    def __init__(self, worker: Worker, recipe: Recipe, vocabulary: int) -> None:
        self._worker, self._recipe = worker, recipe
        self._uniform = math.log(max(vocabulary, 2))
        self.course = Course()

    def state(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return asdict(self.course)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.course = Course(**state)

    def on_log(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        logs = things["logs"]
        if "loss" in logs and math.isfinite(logs["loss"]):
            self.see(logs["loss"], logs.get("learning_rate", 0.0), state.global_step)

    def see(self, loss: float, rate: float, step: int) -> None:
        """Process one metric point."""
        self._zero(loss, step)
        course = self.course
        course.points += 1
        weight = 1 - 0.5 ** (1 / HALF_LIFE)
        # The plain mean while there are few points.
        course.smoothed += (loss - course.smoothed) * max(weight, 1 / course.points)
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
                    f"The loss has risen from {course.best:.2f} to {course.smoothed:.2f} by step {step} and has "
                    f"not recovered; guessing scores {guess:.1f}.",
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
