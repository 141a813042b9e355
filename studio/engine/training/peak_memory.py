"""Measure the peak bytes of tensors on the training device, the quantity that the estimate predicts.

On CUDA this is torch.cuda.max_memory_allocated. On a CPU the same quantity is counted: bytes of all live tensors at the
start, plus the highest running sum of torch's allocations and releases recorded by its profiler. The profiler slows the
work, so a run measures only one training batch and one evaluation batch, of the longest rows.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from studio.engine.compat.torch import highest_allocation
from studio.engine.fast.collator import longest_of
from studio.engine.workers.harness import Worker

# Batches with this share of the longest row's length also count: the longest may be in the first step, or in none.
NEARLY = 0.95


@dataclass
class Peak:
    """Peak bytes during a `peak_of` context."""

    bytes: int = 0


def live_bytes() -> int:
    """Bytes of all tensor storages that Python can reach, each counted once."""
    import torch

    gc.collect()
    sizes: dict[int, int] = {}
    for item in gc.get_objects():
        # Not isinstance(): lazy modules and proxies respond to it with an import or an error.
        if not issubclass(type(item), torch.Tensor) or item.device.type == "meta":
            continue
        with contextlib.suppress(RuntimeError, NotImplementedError):
            if item.is_mkldnn:  # in oneDNN's layout, which has no storage visible to torch
                sizes[id(item)] = item.element_size() * item.numel()
                continue
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = max(sizes.get(storage.data_ptr(), 0), storage.nbytes())
    return sum(sizes.values())


@contextlib.contextmanager
def peak_of(base: int, cuda: bool) -> Iterator[Peak]:
    """Measure the peak inside the context; `base`: bytes alive at its start (CPU only)."""
    import torch

    peak = Peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        yield peak
        torch.cuda.synchronize()
        peak.bytes = torch.cuda.max_memory_allocated()
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    peak.bytes = base + highest_allocation(profiler)


class Meter(TrainerCallback):
    """Measure a run's peak memory and journal it as `measured` when training ends.

    longest, held_out: tokens of the longest training and evaluation row. On a CPU the peak is measured in their
    batches, and only after `after` steps, as the first step creates the optimizer state.
    """

    def __init__(self, worker: Worker, cuda: bool, longest: int, held_out: int) -> None:
        self._worker, self._cuda = worker, cuda
        self.longest, self._held_out = round(NEARLY * longest), round(NEARLY * held_out)
        self._step, self._evaluation = Peak(), Peak()
        self._counting: contextlib.ExitStack | None = None
        self.after = 1

    @property
    def peak(self) -> int:
        """Peak bytes; 0 before any measurement."""
        return max(self._step.bytes, self._evaluation.bytes)

    def watch(self, trainer: Any) -> None:
        """Measure in this trainer's batches."""
        trainer.add_callback(self)
        if self._cuda:
            return
        train, predict = trainer.training_step, trainer.prediction_step

        def training_step(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            due = trainer.state.global_step >= self.after and longest_of(inputs) >= self.longest
            if due and not self._step.bytes and self._counting is None:
                self._counting = contextlib.ExitStack()
                self._step = self._counting.enter_context(peak_of(live_bytes(), False))
            return train(model, inputs, *rest, **more)

        def prediction_step(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            if self._evaluation.bytes or longest_of(inputs) < self._held_out:
                return predict(model, inputs, *rest, **more)
            with peak_of(live_bytes(), False) as self._evaluation:
                return predict(model, inputs, *rest, **more)

        trainer.training_step, trainer.prediction_step = training_step, prediction_step

    def count_first(self, attempt: Callable[[], None], coming: int) -> None:
        """Measure a pass over the longest rows before training; coming: additional bytes in use during a step.

        For batches without padding, none of which may be as long as the batch of the longest rows.
        """
        if self._cuda:
            return attempt()
        with peak_of(live_bytes(), False) as peak:
            attempt()
        self._step = Peak(peak.bytes + coming)

    def on_train_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if self._counting is not None:
            self._counting.close()
            self._counting = None

    def on_train_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        if self._cuda:
            import torch

            self._step.bytes = int(torch.cuda.max_memory_allocated())
        if self._step.bytes:
            self._worker.journal.write("measured", bytes=self.peak)
