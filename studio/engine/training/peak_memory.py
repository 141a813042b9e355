"""Peak bytes of tensors on the training device, as the estimate predicts them.

On CUDA it is torch.cuda.max_memory_allocated. On a CPU it is the same quantity counted: bytes of all tensors alive when
a stretch of work begins, plus the highest sum of torch's own allocations and releases since, as its profiler records
each. That profiler slows the work, so a run counts one training batch and one evaluation batch of the longest it has.
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

# Batches this long count as those of the longest row: that one may have come in the first step, or not come at all.
NEARLY = 0.95


@dataclass
class Peak:
    """The highest bytes of a stretch of work."""

    bytes: int = 0


def live_bytes() -> int:
    """Bytes of all tensor storages that Python can reach, each once."""
    import torch

    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        # Not isinstance(): lazy modules and proxies answer that with an import or an error.
        if not issubclass(type(thing), torch.Tensor) or thing.device.type == "meta":
            continue
        with contextlib.suppress(RuntimeError, NotImplementedError):
            if thing.is_mkldnn:  # laid out by oneDNN: it has no storage that torch would show
                found[id(thing)] = thing.element_size() * thing.numel()
                continue
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = max(found.get(storage.data_ptr(), 0), storage.nbytes())
    return sum(found.values())


@contextlib.contextmanager
def peak_of(base: int, cuda: bool) -> Iterator[Peak]:
    """Counts the stretch inside; `base`: bytes alive when it begins that were there before (a CPU's)."""
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
    """Measures a run's peak and journals it as `measured` when the training ends.

    longest, held_out: tokens of the longest row of training and of evaluation; on a CPU it is in their batches that
    the peak is counted, and only after `after` steps, as the first one makes the optimizer's states.
    """

    def __init__(self, worker: Worker, cuda: bool, longest: int, held_out: int) -> None:
        self._worker, self._cuda = worker, cuda
        self.longest, self._held_out = round(NEARLY * longest), round(NEARLY * held_out)
        self._step, self._evaluation = Peak(), Peak()
        self._counting: contextlib.ExitStack | None = None
        self.after = 1

    @property
    def peak(self) -> int:
        """Bytes; 0 while nothing was counted."""
        return max(self._step.bytes, self._evaluation.bytes)

    def watch(self, trainer: Any) -> None:
        """Count in this trainer's batches."""
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
        """Count a pass over the longest rows before training; coming: bytes that will be there in a step besides.

        For batches without padding, of which none may ever be as long as those of the longest rows.
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
