"""Test a recipe: `python -m studio.engine.workers.dry_run FOLDER`, where FOLDER has the layout of a run directory.

Trains a few steps on the longest examples, evaluates one batch of the longest held-out examples and saves a checkpoint,
all with the code that trains runs. Prints JSON lines: progress, then the measurements or an error with a remedy.
Nothing it trains is kept: the caller deletes the folder.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.dataset.tokens.encode import Example
from studio.dataset.tokens.training_set import Encoded
from studio.engine.fast.collator import sparing_nothing
from studio.engine.inference import loading
from studio.engine.workers import harness, train
from studio.engine.workers.harness import Worker
from studio.engine.workers.inputs import Inputs
from studio.rundir import Exit, Identity, Journal, RunDir

# Step 1 creates the optimizer state and warms up, step 2 is timed, step 3 measures memory, which on a CPU takes time
# itself.
STEPS = 3


@dataclass
class ProgressCallback(Worker):
    """A worker that reports progress on stdout instead of in the journal."""

    def progress(self, what: str, done: int = 0, of: int = 0) -> None:
        say({"doing": what, "done": done, "of": of})

    def note(self, level: str, text: str) -> None:
        say({"note": text})


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Try a recipe out on its longest examples.")
    parser.add_argument("folder", type=Path)
    run = RunDir(parser.parse_args().folder.resolve())
    measured: dict[str, Any] = {}

    def body(work: Worker) -> Exit:
        measured.update(measure(work))
        return Exit("completed", "")

    with Journal(run.events) as journal:
        how = harness.attempt(ProgressCallback(run, journal, Identity(os.getpid(), time.time(), "", "", "")), body)
    if how.state == "completed":
        say({"measured": measured})
    else:
        say({"error": how.message, "remedy": how.remedy})
    return 0


def measure(work: Worker) -> dict[str, Any]:
    """Measure the peak in bytes and the seconds of a step, an evaluation batch and a checkpoint.

    The result also has the rows, longest row and tokens of the measured step, and the device.
    """
    inputs = Inputs.read(work.run)
    encoded = train.prepare_examples(work, inputs)
    longest = longest_batches(encoded, inputs)
    inputs = replace(inputs, recipe=inputs.recipe.with_values({"max_steps": STEPS, "eval_steps": 0, "save_steps": 0}))
    work.phase("Loading the libraries")
    from studio.engine.compat.transformers import callbacks
    from studio.engine.training.peak_memory import Meter

    loading.quiet_libraries()
    device = loading.pick_device()
    trainer, conductor = train.build_trainer(work, inputs, longest, device)
    trainer.data_collator = sparing_nothing(trainer.data_collator)  # repeated rows would share every prefix
    clock = _clock(work, trainer, conductor)
    meter = next(callback for callback in callbacks(trainer) if isinstance(callback, Meter))
    meter.after, meter.longest = STEPS - 1, 0
    # Keep the order: the rows are the examples of one step, repeated for each step.
    trainer.args.train_sampling_strategy = "sequential"
    trainer.train()
    eval_seconds = [line["eval_runtime"] for line in trainer.state.log_history if "eval_runtime" in line]
    rows = inputs.recipe.effective_batch
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]][: STEPS * rows]
    return {
        "bytes": meter.peak,
        "step_seconds": clock.steps[1],
        "eval_seconds": eval_seconds[-1] if eval_seconds else 0.0,
        "save_seconds": clock.save,
        "rows": rows,
        "length": max(lengths),
        "tokens": round(rows * sum(lengths) / len(lengths)),
        "device": device.words,
    }


def longest_batches(encoded: Encoded, inputs: Inputs) -> Encoded:
    """Select the longest examples for the training steps and for one evaluation batch."""
    recipe = inputs.recipe
    packing = recipe.schedule.packing
    rows = recipe.effective_batch * (_examples_a_row(encoded, inputs) if packing else 1)
    # Every step gets the same examples, so that each one has the longest. The last packed rows are not full: one extra
    # step's worth of examples makes sure they belong to a step that is not run.
    batch = _longest(encoded.train, rows)
    return Encoded(batch * (STEPS + packing), _longest(encoded.held_out, recipe.evaluation.per_device_eval_batch_size))


def _longest(examples: list[Example], count: int) -> list[Example]:
    """Return the `count` longest examples, repeated if there are fewer."""
    by_length = sorted(examples, key=lambda example: len(example.input_ids), reverse=True)[:count]
    return (by_length * (count // len(by_length) + 1))[:count] if by_length else []


def _examples_a_row(encoded: Encoded, inputs: Inputs) -> int:
    """Number of the longest examples that fill a packed row, plus one because packing leaves gaps."""
    longest = max(len(example.input_ids) for example in encoded.train)
    return inputs.recipe.data.max_length // longest + 1


def _clock(work: Worker, trainer: Any, conductor: Any) -> Any:
    """Add a callback that times the steps and the checkpoint."""
    from transformers import TrainerCallback

    from studio.engine.compat.transformers import call_first

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[float] = []
            self.save = self.started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
            work.progress("Training on the longest examples", state.global_step, STEPS)
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
            self.steps.append(time.perf_counter() - self.started)

    clock, save = Clock(), conductor.save

    def timed(*args: Any) -> None:
        started = time.perf_counter()
        save(*args)
        clock.save = max(clock.save, time.perf_counter() - started)

    conductor.save = timed
    # First in the list, so that a step's time excludes what the other callbacks do at its end.
    call_first(trainer, clock)
    return clock


if __name__ == "__main__":
    raise SystemExit(main())
