"""Preflight check of a run: do its largest batches fit in memory, and can its checkpoints be read back?

Runs one forward and backward pass of the longest rows and one evaluation batch of the longest held-out rows, and
writes a checkpoint, reads it back and compares it. What would otherwise fail after hours fails in the first minute,
with a remedy. It runs before the first step on a GPU, and between the first and the second step on a CPU, where each
check takes as long as a step or two: the first metric point appears that much sooner. Training is not affected:
gradients, sums and random state are restored. peak_memory.py measures the peak.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from studio.engine.artefacts.artefacts import write_checkpoint
from studio.engine.compat.transformers import as_whole_step, call_first, callbacks, items_in_batch
from studio.engine.compat.trl import forget_evaluation, training_window_kept
from studio.engine.fast.collator import RowCollator, sparing_nothing
from studio.engine.training.callbacks import CheckpointControl
from studio.engine.training.peak_memory import Meter
from studio.engine.training.rng import RandomState, undisturbed
from studio.engine.training.step_state import StepState
from studio.engine.workers.harness import Ended, Worker, out_of_memory
from studio.recipe import Recipe
from studio.rundir import Exit

SCRATCH = ".preflight"
# Bytes of optimizer state per trained parameter: AdamW keeps two moments of 4 bytes each, or 1 byte in 8 bits.
MOMENTS, MOMENTS_8BIT = 8, 2


class Preflight(TrainerCallback):
    """Check a run when its training begins, with model and optimizer ready for the first step."""

    def __init__(self, work: Worker, recipe: Recipe, trainer: Any, conductor: CheckpointControl) -> None:
        self._work, self._recipe, self._trainer, self._conductor = work, recipe, trainer, conductor
        self._first = 0  # the step after which training begins
        self._waits = trainer.args.device.type == "cpu"
        # First in the list: the journal's plan and the timing of a step come after this check.
        call_first(trainer, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        self._first = state.global_step
        if not self._waits:
            self._check(things["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if self._waits and state.global_step > self._first:
            self._waits = False
            self._check(things["model"])

    def _check(self, model: Any) -> None:
        started = time.perf_counter()
        longest = self._train_longest(model)
        if self._trainer.eval_dataset is not None:
            self._evaluate_longest(model)
        size = self._save_and_read() if self._first == 0 else 0
        seconds = round(time.perf_counter() - started, 3)
        self._work.journal.write("preflight", seconds=seconds, longest=longest, checkpoint_bytes=size)

    def _train_longest(self, model: Any) -> int:
        """Run one pass over the longest batch without a step; return the tokens of its longest row."""
        trainer, schedule = self._trainer, self._recipe.schedule
        rows, longest = longest_rows(trainer.train_dataset, schedule.per_device_train_batch_size)
        self._work.phase("Testing the longest batch")
        self._leave_if_asked()

        def attempt() -> None:
            moments = _room_for_moments(trainer)
            # Compute every token: another batch may share none.
            batch = sparing_nothing(trainer.data_collator)(rows)
            count = items_in_batch(trainer, batch)
            # The class's own method, without the memory meter of the run.
            type(trainer).training_step(trainer, model, batch, count)
            del moments

        try:
            with as_whole_step(trainer), training_window_kept(trainer), undisturbed():
                self._within_memory(self._counted(attempt), self._train_remedy(len(rows), longest))
        finally:
            model.zero_grad(set_to_none=True)
        return longest

    def _counted(self, attempt: Callable[[], None]) -> Callable[[], None]:
        """On the fast path, measure the peak here: see Meter.count_first."""
        trainer = self._trainer
        if not isinstance(trainer.data_collator, RowCollator):
            return attempt
        meter = next(callback for callback in callbacks(trainer) if isinstance(callback, Meter))
        waiting = 0
        if self._recipe.schedule.gradient_accumulation_steps > 1:
            waiting = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
        return lambda: meter.count_first(attempt, moment_bytes(trainer) + waiting)

    def _evaluate_longest(self, model: Any) -> None:
        trainer, size = self._trainer, self._recipe.evaluation.per_device_eval_batch_size
        rows, longest = longest_rows(trainer.eval_dataset, size)
        self._work.phase("Testing the longest evaluation batch")
        self._leave_if_asked()

        def attempt() -> None:
            model.eval()
            type(trainer).prediction_step(trainer, model, sparing_nothing(trainer.data_collator)(rows), True)

        remedy = f"Set per_device_eval_batch_size to {len(rows) // 2}."
        if len(rows) == 1:
            remedy = f"Lower max_length (now {self._recipe.data.max_length}), or set held_out to 0."
        what = f"evaluating the longest held-out batch ({_rows_of(len(rows), longest)})"
        try:
            with undisturbed():
                self._within_memory(attempt, (what, remedy))
        finally:
            model.train()
            forget_evaluation(trainer)

    def _save_and_read(self) -> int:
        """Write a trial checkpoint, read it back and compare; return the bytes of a full one."""
        self._work.phase("Testing a checkpoint")
        self._leave_if_asked()
        conductor, trainer = self._conductor, self._trainer
        folder = self._work.run.path / SCRATCH
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            with undisturbed():
                moment = StepState.of(trainer, conductor.listeners, owed=False)
                write_checkpoint(trainer, conductor.trained, folder, moment, conductor.stopping)
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                fault = conductor.trained.differs(folder) or _random_differs(moment.rng, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if fault:
            raise Ended(
                Exit(
                    "failed",
                    f"A test checkpoint was read back from the disk with differences: {fault}",
                    "Check the disk, or move STUDIO_HOME to another one.",
                    cause="disk",
                )
            )
        return size + moment_bytes(trainer)

    def _within_memory(self, attempt: Callable[[], None], explanation: tuple[str, str]) -> None:
        try:
            attempt()
        except Exception as error:
            if not out_of_memory(error):
                raise
            what, remedy = explanation
            raise Ended(
                Exit("failed", f"The device does not have enough memory for {what}.", remedy, cause="memory")
            ) from error

    def _train_remedy(self, rows: int, longest: int) -> tuple[str, str]:
        schedule, ways = self._recipe.schedule, []
        if schedule.per_device_train_batch_size > 1:
            half = max(1, schedule.per_device_train_batch_size // 2)
            times = -(-self._recipe.effective_batch // half)
            ways.append(
                f"set per_device_train_batch_size to {half} with gradient_accumulation_steps {times} "
                "(same effective batch)"
            )
        ways.append(f"lower max_length (now {self._recipe.data.max_length})")
        if not schedule.gradient_checkpointing:
            ways.append("turn on gradient_checkpointing")
        if self._recipe.quantization.quantization == "none" and self._recipe.method.method != "full":
            ways.append("set quantization to nf4")
        remedy = ", or ".join(ways) + "."
        return f"training on the longest batch ({_rows_of(rows, longest)})", remedy[0].upper() + remedy[1:]

    def _leave_if_asked(self) -> None:
        if self._trainer.state.global_step == self._first:  # later CheckpointControl handles the request
            self._work.leave_if_asked("Stopped before the first step: earlier checkpoints are unchanged.")


def longest_rows(dataset: Any, count: int) -> tuple[list[dict[str, Any]], int]:
    """Return the `count` longest rows, and the number of tokens in the longest."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
    chosen = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:count]
    return [dataset[index] for index in chosen], lengths[chosen[0]]


def moment_bytes(trainer: Any) -> int:
    """Bytes of optimizer state that the first step allocates; 0 if it exists already."""
    if trainer.optimizer.state_dict()["state"]:
        return 0
    each = MOMENTS_8BIT if "8bit" in str(getattr(trainer.args.optim, "value", trainer.args.optim)) else MOMENTS
    return each * sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)


def _room_for_moments(trainer: Any) -> Any:
    """On a GPU, allocate as much memory as the optimizer state takes from the first step on."""
    import torch

    paged = "paged" in str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if trainer.args.device.type != "cuda" or paged:
        return None
    return torch.empty(moment_bytes(trainer), dtype=torch.uint8, device=trainer.args.device)


def _rows_of(rows: int, longest: int) -> str:
    return f"{rows} rows of up to {longest} tokens" if rows > 1 else f"1 row of {longest} tokens"


def _random_differs(written: RandomState, folder: Path) -> str:
    import torch

    read = RandomState.read(folder)
    same = read.python == written.python and all(
        torch.equal(tensor, read.torch[name].to(tensor.device)) for name, tensor in written.torch.items()
    )
    return "" if same else "the random state."
