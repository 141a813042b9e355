"""What listens to the trainer: the journal, the control folder, the checkpoints, the watch for non-finite numbers.

The order of one step, as the Hugging Face trainer calls it: optimizer, `on_step_end`, `on_log` (if a point is due),
`on_evaluate` (if an evaluation is due). A checkpoint is taken at the last of these, so that it holds the point and
the random state with which the next step begins. What this does not do: compute a loss, or change one.
"""

import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from studio.engine.artefacts import RandomState, prune_checkpoints, save_checkpoint
from studio.engine.weights import Trained
from studio.engine.worker import Ended, Worker
from studio.recipe import Recipe
from studio.rundir import Exit, verify_folder

NON_FINITE_LIMIT = 3  # steps in a row


class Interrupted(Exception):
    """Leave the trainer in the middle of a step or an evaluation; the weights are those of the last step."""


def peak_memory() -> int:
    """Peak bytes: allocated on the GPU, or resident in RAM where there is none."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Guard(TrainerCallback):
    """Skips the update of a step whose loss or gradients are not finite, and ends the run after three in a row."""

    def __init__(self, worker: Worker, recipe: Recipe) -> None:
        self._worker, self._recipe = worker, recipe
        self._bad_step = False
        self._in_a_row = 0
        self._in_window = False
        self.trainer: Any = None

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
            self._in_a_row = 0
            return
        self._bad_step, self._in_window = False, True
        self._in_a_row += 1
        if not self._loss_is_finite():
            # The trainer's running sum would stay nan for good: nan - nan is nan.
            self.trainer._tr_loss.zero_()
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
            )
        )

    def _loss_is_finite(self) -> bool:
        return bool(self.trainer._tr_loss.isfinite())


class Recorder(TrainerCallback):
    """Journals the plan, each metric point and each evaluation."""

    def __init__(self, worker: Worker, guard: Guard, plan: dict[str, Any]) -> None:
        self._worker, self._guard, self._plan = worker, guard, plan
        self._began = 0.0
        self._seconds = 0.0
        self._steps = 0
        self._tokens = 0
        self._predicted = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._worker.journal.write("plan", total_steps=state.max_steps, epochs=state.num_train_epochs, **self._plan)
        self._worker.state("running", f"Training {state.max_steps} steps.")

    def on_step_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._began = time.perf_counter()

    def on_substep_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._worker.progressed = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._seconds += time.perf_counter() - self._began
        self._steps += 1
        self._worker.reached(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        logs = things["logs"]
        if "loss" not in logs or not self._steps:
            return
        tokens = int(logs["num_tokens"])
        loss = self._guard.loss_of_window(logs["loss"])
        step_seconds = self._seconds / self._steps
        tokens_per_s = (tokens - self._tokens) / self._seconds
        self._worker.journal.write(
            "metric",
            step=state.global_step,
            epoch=state.epoch,
            loss=loss,
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            tokens=tokens,
            tokens_per_s=tokens_per_s,
            step_seconds=step_seconds,
            memory=peak_memory(),
            token_accuracy=logs.get("mean_token_accuracy"),
        )
        print(f"step {state.global_step}/{state.max_steps}  loss {loss:.4f}  {tokens_per_s:.0f} tokens/s", flush=True)
        self._seconds, self._steps, self._tokens = 0.0, 0, tokens

    def on_prediction_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._predicted += 1
        self._worker.progress("Evaluating", self._predicted, len(things["eval_dataloader"]))

    def on_evaluate(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        metrics = things["metrics"]
        self._predicted = 0
        self._worker.journal.write(
            "eval",
            step=state.global_step,
            epoch=state.epoch,
            eval_loss=metrics["eval_loss"],
            eval_token_accuracy=metrics.get("eval_mean_token_accuracy"),
            seconds=metrics["eval_runtime"],
        )
        print(f"step {state.global_step}  held-out loss {metrics['eval_loss']:.4f}", flush=True)


class Conductor(TrainerCallback):
    """Obeys the control folder, takes the checkpoints, and stops when the held-out loss no longer falls."""

    def __init__(self, worker: Worker, recipe: Recipe, trained: Trained) -> None:
        self._worker, self._recipe = worker, recipe
        self.trained = trained
        self.ending = ""  # how the training was cut short: stop, cancel, early or not at all
        self.saved_step = 0
        self.best_step = 0  # with early stopping: the step of the lowest held-out loss, which has a checkpoint
        self.best_loss = math.inf
        self._worse = 0  # evaluations in a row since
        self._due = False
        self._rng: RandomState | None = None
        self.trainer: Any = None

    def save(self, rng: RandomState | None = None) -> None:
        """Take a checkpoint of the last finished step, once."""
        self._due = False
        step = self.trainer.state.global_step
        if step == 0 or step == self.saved_step:
            return
        worker = self._worker
        worker.progress("Saving a checkpoint")
        path = save_checkpoint(self.trainer, self.trained, worker.run, rng or RandomState.now())
        self.saved_step = step
        worker.journal.write("checkpoint", sync=True, step=step, path=str(path.relative_to(worker.run.path)))
        prune_checkpoints(worker.run, self._recipe.output.save_total_limit, spare=self.best_step)

    def save_interrupted(self) -> None:
        """Take the checkpoint of the last finished step after an Interrupted, with that step's random state."""
        self.save(self._rng)

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> Any:
        every = self._recipe.output.save_steps
        last = state.global_step >= state.max_steps
        self._rng = RandomState.now()
        self._due = last or self._worker.wished("checkpoint") or bool(every and state.global_step % every == 0)
        if not last and self._asked_to_end():
            control.should_training_stop, control.should_evaluate = True, False
            self._due = self.ending == "stop"
        if last or self.ending:
            # The steps since the last point get a point too.
            control.should_log = True
        if not control.should_log and not control.should_evaluate:
            self._save_if_due()
        return control

    def on_log(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        # After the last step nothing random follows: it is saved before its evaluation, which may take long.
        if "loss" in things["logs"] and (not control.should_evaluate or state.global_step >= state.max_steps):
            self._save_if_due()

    def on_evaluate(self, args: Any, state: Any, control: Any, **things: Any) -> Any:
        patience = self._recipe.evaluation.early_stopping_patience
        if patience:
            self._judge(things["metrics"]["eval_loss"], state.global_step)
            if self._worse >= patience and state.global_step < state.max_steps:
                self.ending = self.ending or "early"
                control.should_training_stop = True
        self._save_if_due()
        return control

    def take_best(self) -> None:
        """With early stopping: go back to the weights of the best evaluation, from its checkpoint."""
        step = self.trainer.state.global_step
        if self.best_step in (0, step):
            return
        folder = self._worker.run.checkpoints / f"step-{self.best_step}"
        fault = verify_folder(folder)
        if fault is not None:
            self._worker.note(
                "warning", f"The best evaluation was at step {self.best_step}, but {fault} Step {step} is kept instead."
            )
            self.best_step = 0
            return
        self.trained.load(folder)
        self._worker.note(
            "info",
            f"Took the weights of step {self.best_step}: its held-out loss {self.best_loss:.4f} was the lowest.",
        )

    def _judge(self, loss: float, step: int) -> None:
        if not loss < self.best_loss:  # a loss that is no number is no improvement
            self._worse += 1
            return
        self.best_loss, self.best_step, self._worse = loss, step, 0
        self._due = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._interrupt_if_asked()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._interrupt_if_asked()

    def _save_if_due(self) -> None:
        if self._due:
            self.save()

    def _interrupt_if_asked(self) -> None:
        if self._asked_to_end():
            raise Interrupted

    def _asked_to_end(self) -> bool:
        if self._worker.wished("cancel"):
            self.ending = "cancel"
        elif self._worker.wished("stop"):
            self.ending = "stop"
        else:
            return False
        self._worker.state("stopping", "The step is finished first." if self.ending == "stop" else "")
        return True
