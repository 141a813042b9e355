"""State at the end of a step, in addition to the weights and the optimizer.

Between two metric points the trainer sums losses and TRL collects accuracies. A run resumed from a checkpoint in
between must continue with these sums, or its next point would differ; an extra point at a stop does not reset them.
callbacks decides when a state is captured, resume restores it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from studio.engine.compat.transformers import last_logged_step, restore_loss_window, summed_loss
from studio.engine.compat.trl import restore_training_window, trained_tokens, training_metrics
from studio.engine.training.rng import RandomState
from studio.rundir import read_json, write_json

WINDOW_FILE = "window.json"


class Stateful(Protocol):
    """A callback whose state is saved in checkpoints."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class StepState:
    """State at the end of step `step`.

    loss: the trainer's sum since step `logged`, a tensor; metrics: TRL's lists since then, each with the number of its
    valid entries (lists only grow); owed: an evaluation of this step is still due.
    """

    step: int
    rng: RandomState
    loss: Any
    logged: int
    tokens: int
    metrics: dict[str, tuple[list[float], int]]
    owed: bool
    listeners: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, trainer: Any, listeners: Mapping[str, Stateful], owed: bool) -> Self:
        """Capture the current state."""
        return cls(
            step=trainer.state.global_step,
            rng=RandomState.now(),
            loss=summed_loss(trainer).clone(),
            logged=last_logged_step(trainer),
            tokens=trained_tokens(trainer),
            metrics={name: (values, len(values)) for name, values in training_metrics(trainer).items()},
            owed=owed,
            listeners=_states(listeners),
        )

    def after_point(self, listeners: Mapping[str, Stateful]) -> Self:
        """Return the state after its metric point is journalled: all sums are reset."""
        return replace(self, loss=self.loss * 0, logged=self.step, metrics={}, listeners=_states(listeners))

    def evaluated(self) -> Self:
        """Return the state after its evaluation is journalled."""
        return replace(self, owed=False)

    def write(self, folder: Path, stopping: Mapping[str, Any]) -> None:
        """Write the state to a checkpoint; stopping: the state of early stopping."""
        self.rng.write(folder)
        window = {
            "step": self.step,
            "loss": float(self.loss),
            "logged": self.logged,
            "tokens": self.tokens,
            "metrics": {name: values[:count] for name, (values, count) in self.metrics.items()},
            "owed": self.owed,
            "listeners": self.listeners,
            "stopping": dict(stopping),
        }
        write_json(folder / WINDOW_FILE, window)


def restore(trainer: Any, folder: Path, listeners: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore the sums of the checkpoint in `folder`; return the contents of its window.json."""
    window = read_json(folder / WINDOW_FILE) or {}
    restore_loss_window(trainer, window["loss"], window["logged"])
    restore_training_window(trainer, window["tokens"], window["metrics"])
    for name, listener in listeners.items():
        if name in window["listeners"]:
            listener.restore(window["listeners"][name])
    return window


def _states(listeners: Mapping[str, Stateful]) -> dict[str, dict[str, Any]]:
    return {name: listener.state() for name, listener in listeners.items()}
