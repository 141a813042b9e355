"""Resume from a checkpoint, so that every later step equals that of an uninterrupted run.

The Hugging Face trainer restores the position in the data and the step count. What it would read from pickles is read
here from our own files: weights, optimizer, learning rate, random state, and the sums since the last metric point
(step_state.py). With a new length (resume.json), the learning rate follows the new schedule from the checkpoint's step
on. The studio chooses the checkpoint; engine/artefacts/artefacts.py writes it.
"""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from studio.engine.artefacts.artefacts import sweep
from studio.engine.artefacts.tensor_tree import read_tree
from studio.engine.compat.bitsandbytes import page_out
from studio.engine.compat.torch import set_last_rates
from studio.engine.compat.transformers import call_first, callbacks, use_own_resume
from studio.engine.training import step_state
from studio.engine.training.callbacks import CheckpointControl, JournalCallback
from studio.engine.training.rng import RandomState
from studio.engine.workers.harness import Ended, Worker
from studio.engine.workers.inputs import Inputs
from studio.rundir import Exit, read_events, read_json, verify_folder

NEEDED = ("trainer_state.json", "optimizer.json", "optimizer.safetensors", "scheduler.json", step_state.WINDOW_FILE)


def find_checkpoint(work: Worker, inputs: Inputs) -> Path | None:
    """Return the checkpoint to resume from, or None to start from step 0; end the run if it is not intact."""
    sweep(work.run)
    if inputs.resume is None or not inputs.resume.checkpoint:
        return None
    what = "Checking the checkpoint"
    work.phase(what)
    folder = work.run.path / inputs.resume.checkpoint
    fault = verify_folder(folder, lambda: work.progress(what))
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if fault is None and missing:
        fault = f"{folder.name} has no {missing[0]}: an earlier version of the studio wrote it."
    if fault is not None:
        raise Ended(
            Exit(
                "failed",
                f"The run cannot resume from its checkpoint. {fault}",
                "Resume it from an earlier checkpoint, or start a new run with the same recipe.",
                cause="error",
            )
        )
    return folder


class Resumption(TrainerCallback):
    """Restore the trainer to the checkpoint in `folder` when training begins."""

    def __init__(self, work: Worker, trainer: Any, conductor: CheckpointControl, folder: Path) -> None:
        self._work, self._trainer, self._conductor, self._folder = work, trainer, conductor, folder
        use_own_resume(
            trainer,
            weights=lambda: conductor.trained.resume(folder),
            optimizer=lambda: load_optimizer(trainer, folder),
            rng=lambda: RandomState.read(folder).restore(),
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        conductor, step = self._conductor, state.global_step
        if step > state.max_steps:
            raise Ended(
                Exit(
                    "failed",
                    f"The checkpoint is from step {step}, but the run has only {state.max_steps} steps.",
                    "Resume it with more max_steps or num_train_epochs.",
                    cause="error",
                )
            )
        window = step_state.restore(self._trainer, self._folder, conductor.listeners)
        conductor.go_on(step, window["stopping"])
        if not window["owed"] or self._trainer.eval_dataset is None:
            return
        # The previous worker ended between that step and its evaluation, or just after the evaluation.
        done = [event.payload for event in read_events(self._work.run.events).events if event.kind == "eval"]
        losses = [float(payload["eval_loss"]) for payload in done if payload["step"] == step]
        if not losses:
            args.eval_on_start = True
        elif conductor.judged(losses[-1], step) and step < state.max_steps:
            conductor.ending = "early"


def prepare(work: Worker, inputs: Inputs, trainer: Any, conductor: CheckpointControl, folder: Path | None) -> None:
    """Set up a trainer, before it starts, to resume from `folder`."""
    if inputs.resume is None:
        return
    recorder = next(callback for callback in callbacks(trainer) if isinstance(callback, JournalCallback))
    recorder.resumed = {"attempt": inputs.resume.attempt, "checkpoint": inputs.resume.checkpoint}
    if folder is not None:
        # First in the list, so that the other callbacks start with their restored state.
        call_first(trainer, Resumption(work, trainer, conductor, folder))


def load_optimizer(trainer: Any, folder: Path) -> None:
    """Load the optimizer's state, and set the learning rate of the next step."""
    tree = read_tree(folder / "optimizer")
    tree["state"] = {int(name): value for name, value in tree["state"].items()}
    for group in tree["param_groups"]:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    trainer.optimizer.load_state_dict(tree)
    page_out(trainer.optimizer)
    scheduler, saved = trainer.lr_scheduler, read_json(folder / "scheduler.json") or {}
    scheduler.load_state_dict(saved)
    # As LambdaLR computes it, with the total of this run.
    rates = [base * at(scheduler.last_epoch) for base, at in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    set_last_rates(scheduler, rates)
