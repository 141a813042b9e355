"""Measure one configuration: the peak bytes of tensors on the device in a real step and in an evaluation.

The trainer is the engine's own (`studio.engine.workers.train.build_trainer`), on rows of exactly the requested length.
On CUDA it reads torch.cuda.max_memory_allocated, on a CPU it counts the same quantity
(studio.engine.training.peak_memory).
"""

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.recipe import Recipe

TRAINED = 0.1


PACKED = 4  # examples per packed row


@dataclass(frozen=True)
class Measured:
    """The peak of a training step and an evaluation, and the trainable parameters as PEFT counts them."""

    peak: int
    trainable: int


def measure(folder: Path, recipe: Recipe, length: int, share: float) -> Measured:
    """Train two steps of `recipe` on the model in `folder` with rows of `length` tokens; the second is measured.

    share: fraction of an example's tokens that have a label.
    """
    from studio.engine.inference import loading
    from studio.engine.training.peak_memory import Meter, live_bytes

    # CUDA's counter starts at what is allocated; the CPU's also counts what an earlier configuration did not free.
    before = 0 if loading.pick_device().is_cuda else live_bytes()
    with tempfile.TemporaryDirectory() as work, _quiet():
        trainer = _trainer(folder, recipe, length, share, Path(work))
        meter = next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Meter))
        trainer.train()
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        if hasattr(trainer.model, "get_nb_trainable_parameters"):
            trainable = trainer.model.get_nb_trainable_parameters()[0]
        trainer.accelerator.free_memory()
        peak = meter.peak - before
        del trainer, meter
        gc.collect()
    return Measured(peak, trainable)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import io
    import warnings

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def rows(count: int, batch: int, length: int, share: float, seed: int = 0) -> list[Any]:
    """Make `count` examples: the first of each batch has `length` tokens, the others somewhat fewer, like real data.

    The last `share` of each example is trained.
    """
    import random

    from studio.dataset.tokens.encode import Example

    rng = random.Random(seed)
    examples = []
    for row in range(count):
        tokens = length - (row % batch) * max(1, length // (4 * batch))
        prompt = tokens - round(tokens * share)
        ids = [rng.randrange(3, 250) for _ in range(tokens)]
        examples.append(Example(row, ids, [-100] * prompt + ids[prompt:]))
    return examples


def trained_share(recipe: Recipe, length: int, share: float) -> float:
    """Return the share of one batch's tokens, padding included, that have a label."""
    batch = recipe.schedule.per_device_train_batch_size
    if recipe.schedule.packing:
        examples, per_row = rows(1, 1, length // PACKED, share), PACKED
    else:
        examples, per_row = rows(batch, batch, length, share), 1
    trained = per_row * sum(label != -100 for row in examples for label in row.labels[1:])
    return float(trained / (len(examples) * length))


def _trainer(folder: Path, recipe: Recipe, length: int, share: float, work: Path) -> Any:
    from studio.dataset.tokens.training_set import Encoded
    from studio.engine.fast.collator import sparing_nothing
    from studio.engine.inference import loading
    from studio.engine.workers import train
    from studio.engine.workers.inputs import Inputs

    schedule, batch = recipe.schedule, recipe.schedule.per_device_train_batch_size
    eval_batch = recipe.evaluation.per_device_eval_batch_size
    held_out = rows(eval_batch, eval_batch, length, share, seed=1)
    if schedule.packing:
        train_rows = rows(2 * PACKED * batch * schedule.gradient_accumulation_steps, 1, length // PACKED, share)
        recipe = recipe.with_values({"max_length": length})
    else:
        train_rows = rows(2 * batch * schedule.gradient_accumulation_steps, batch, length, share)
    encoded = Encoded(train_rows, held_out)
    recipe = recipe.with_values({"max_steps": 2})
    inputs = Inputs(recipe, folder.name, folder, "rows", work)
    build: Callable[..., Any] = train.build_trainer
    trainer, _ = build(_worker(work), inputs, encoded, loading.pick_device())
    # In order, so that every batch has one of the longest.
    trainer.args.train_sampling_strategy = "sequential"
    trainer.data_collator = sparing_nothing(trainer.data_collator)  # as a run tries its longest batch
    return trainer


def _worker(work: Path) -> Any:
    from studio.engine.workers.harness import Worker
    from studio.rundir import Identity, Journal, RunDir

    run = RunDir(work)
    return Worker(run, Journal(run.events), Identity(0, 0.0, "", "", ""))
