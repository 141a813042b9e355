"""Trainer callbacks for the journal, the control folder and the checkpoints.

The Hugging Face trainer's order within a step: optimizer, `on_step_end`, `on_log` (if a metric point is due),
`on_evaluate` (if an evaluation is due). A checkpoint is saved at the last of these, after the point is in the journal.
The loss is not changed here; loss_guards.py watches it.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from studio.engine.artefacts.artefacts import prune_checkpoints, save_checkpoint
from studio.engine.artefacts.trained import Trained
from studio.engine.training.loss_guards import FiniteGuard
from studio.engine.training.step_state import Stateful, StepState
from studio.engine.workers.harness import Worker, say
from studio.recipe import Recipe
from studio.rundir import verify_folder


class Interrupted(Exception):
    """Raised to leave the trainer during a step or an evaluation; the weights are those of the last finished step."""


def peak_memory() -> int:
    """Peak bytes allocated on the GPU, or resident in RAM if there is none."""
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


class JournalCallback(TrainerCallback):
    """Journal the plan, each metric point and each evaluation."""

    def __init__(self, worker: Worker, guard: FiniteGuard, plan: dict[str, Any]) -> None:
        self._worker, self._guard, self._plan = worker, guard, plan
        self._started = 0.0
        self._seconds = 0.0
        self._steps = 0
        self._tokens = 0
        self._predicted = 0
        self.resumed: dict[str, Any] = {}  # payload of the `resumed` event; empty for a run's first worker

    def state(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return {"seconds": self._seconds, "steps": self._steps, "tokens": self._tokens}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._seconds, self._steps, self._tokens = state["seconds"], state["steps"], state["tokens"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if self.resumed:
            self._worker.journal.write("resumed", step=state.global_step, **self.resumed)
        self._worker.reached(state.global_step)
        self._worker.journal.write("plan", total_steps=state.max_steps, epochs=state.num_train_epochs, **self._plan)
        self._worker.state("running", f"Training {state.max_steps} steps.")

    def on_step_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._started = time.perf_counter()

    def on_substep_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._worker.progressed = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._seconds += time.perf_counter() - self._started
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
        say(f"step {state.global_step}/{state.max_steps}  loss {loss:.4f}  {tokens_per_s:.0f} tokens/s")
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
        say(f"step {state.global_step}  held-out loss {metrics['eval_loss']:.4f}")


class CheckpointControl(TrainerCallback):
    """Handle control requests, save checkpoints, and stop early when the held-out loss no longer falls."""

    def __init__(self, worker: Worker, recipe: Recipe, trained: Trained, listeners: Mapping[str, Stateful]) -> None:
        self._worker, self._recipe = worker, recipe
        self.trained, self.listeners = trained, listeners
        self.ending = ""  # why training ends before its last step: stop, cancel or early; empty if it does not
        self.saved_step = 0
        self.best_step = 0  # with early stopping: the step of the lowest held-out loss, which has a checkpoint
        self.best_loss = math.inf
        self._worse = 0  # evaluations since then without improvement
        self._due = False
        self._moment: StepState | None = None
        self.trainer: Any = None

    @property
    def stopping(self) -> dict[str, Any]:
        """State of early stopping, for a checkpoint."""
        return {
            "best_step": self.best_step,
            "best_loss": self.best_loss if self.best_step else None,
            "worse": self._worse,
        }

    def go_on(self, step: int, stopping: Mapping[str, Any]) -> None:
        """Continue from the checkpoint of `step`."""
        self.saved_step = step
        self.best_step, self._worse = stopping["best_step"], stopping["worse"]
        self.best_loss = math.inf if stopping["best_loss"] is None else stopping["best_loss"]

    def save(self) -> None:
        """Save a checkpoint of the last finished step, unless it has one."""
        self._due = False
        moment = self._moment
        if moment is None or moment.step == self.saved_step:
            return
        worker = self._worker
        worker.progress("Saving a checkpoint")
        path = save_checkpoint(self.trainer, self.trained, worker.run, moment, self.stopping)
        self.saved_step = moment.step
        worker.journal.write("checkpoint", sync=True, step=moment.step, path=str(path.relative_to(worker.run.path)))
        prune_checkpoints(worker.run, self._recipe.output.save_total_limit, self.best_step, moment.step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        # The trainer always takes at least one step, but after the last step's checkpoint there is none to take.
        if state.global_step >= state.max_steps or self.ending:
            raise Interrupted

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> Any:
        every = self._recipe.output.save_steps
        last = state.global_step >= state.max_steps
        self._moment = StepState.of(self.trainer, self.listeners, owed=control.should_evaluate)
        self._due = last or self._worker.wished("checkpoint") or bool(every and state.global_step % every == 0)
        if not last and self._asked_to_end():
            control.should_training_stop, control.should_evaluate = True, False
            self._due = self.ending == "stop"
        if last or self.ending:
            # Journal a point for the steps since the last one.
            control.should_log = True
        if not control.should_log and not control.should_evaluate:
            self._save_if_due()
        return control

    def on_log(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if "loss" not in things["logs"] or self._moment is None:
            return
        # An extra point (at a stop or at the end) does not exist in an uninterrupted or longer run.
        if state.global_step % self._recipe.output.logging_steps == 0:
            self._moment = self._moment.after_point(self.listeners)
        # Save the last step before its evaluation, which may take long.
        if not control.should_evaluate or state.global_step >= state.max_steps:
            self._save_if_due()

    def on_evaluate(self, args: Any, state: Any, control: Any, **things: Any) -> Any:
        if self._moment is not None:
            self._moment = self._moment.evaluated()
        if self.judged(things["metrics"]["eval_loss"], state.global_step) and state.global_step < state.max_steps:
            self.ending = self.ending or "early"
            control.should_training_stop = True
        self._save_if_due()
        return control

    def judged(self, loss: float, step: int) -> bool:
        """Record an evaluation; return True if training should stop early."""
        patience = self._recipe.evaluation.early_stopping_patience
        if not patience:
            return False
        self._judge(loss, step)
        return self._worse >= patience

    def _judge(self, loss: float, step: int) -> None:
        if not loss < self.best_loss:  # nan is not an improvement
            self._worse += 1
            return
        self.best_loss, self.best_step, self._worse = loss, step, 0
        self._due = True

    def take_best(self) -> None:
        """With early stopping: load the weights of the best evaluation from its checkpoint."""
        step = self.trainer.state.global_step
        if self.best_step in (0, step):
            return
        folder = self._worker.run.checkpoints / f"step-{self.best_step}"
        fault = verify_folder(folder)
        if fault is not None:
            self._worker.note(
                "warning",
                f"The best evaluation was at step {self.best_step}, but {fault} "
                f"The weights of step {step} are kept instead.",
            )
            self.best_step = 0
            return
        self.trained.load(folder)
        self._worker.note(
            "info",
            f"Took the weights of step {self.best_step}: its held-out loss {self.best_loss:.4f} was the lowest.",
        )

    def on_substep_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self.interrupt_if_asked()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self.interrupt_if_asked()

    def _save_if_due(self) -> None:
        if self._due:
            self.save()

    def interrupt_if_asked(self) -> None:
        """Raise Interrupted if a stop or cancel was requested."""
        if self._asked_to_end():
            raise Interrupted

    def _asked_to_end(self) -> bool:
        if self._worker.wished("cancel"):
            self.ending = "cancel"
        elif self._worker.wished("stop"):
            self.ending = "stop"
        else:
            return False
        self._worker.state("stopping", "The current step is finished first." if self.ending == "stop" else "")
        return True
