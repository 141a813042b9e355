"""Tries a recipe out: `python -m studio.engine.workers.dry_run FOLDER`, FOLDER laid out as a run directory.

A few steps on the longest examples, an evaluation batch of the longest held-out ones and a checkpoint, all through the
code that trains runs. It prints JSON lines: how far it is, and at the end what was measured or why it cannot be. What
it does not do: journal for anyone, or keep what it trained (the asker throws the folder away).
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

# The first makes the optimizer's states and warms everything up, the second is timed, in the third memory is counted:
# on a CPU the counting takes time itself.
STEPS = 3


@dataclass
class ProgressCallback(Worker):
    """A worker that tells its asker directly how far it is."""

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
    found: dict[str, Any] = {}

    def body(work: Worker) -> Exit:
        found.update(measure(work))
        return Exit("completed", "")

    with Journal(run.events) as journal:
        how = harness.attempt(ProgressCallback(run, journal, Identity(os.getpid(), time.time(), "", "", "")), body)
    if how.state == "completed":
        say({"measured": found})
    else:
        say({"error": how.message, "remedy": how.remedy})
    return 0


def measure(work: Worker) -> dict[str, Any]:
    """Bytes at the peak; seconds of a step, of an evaluation batch and of a checkpoint; and what they were of."""
    inputs = Inputs.read(work.run)
    encoded = train.prepare_examples(work, inputs)
    tried = longest_batches(encoded, inputs)
    inputs = replace(inputs, recipe=inputs.recipe.with_values({"max_steps": STEPS, "eval_steps": 0, "save_steps": 0}))
    work.phase("Loading the libraries")
    from studio.engine.compat.transformers import callbacks
    from studio.engine.training.peak_memory import Meter

    loading.quiet_libraries()
    device = loading.pick_device()
    trainer, conductor = train.build_trainer(work, inputs, tried, device)
    trainer.data_collator = sparing_nothing(trainer.data_collator)  # the same rows again and again would share all
    clock = _clock(work, trainer, conductor)
    meter = next(one for one in callbacks(trainer) if isinstance(one, Meter))
    meter.after, meter.longest = STEPS - 1, 0
    # In order: the examples of one step are there as often as there are steps.
    trainer.args.train_sampling_strategy = "sequential"
    trainer.train()
    evaluated = [line["eval_runtime"] for line in trainer.state.log_history if "eval_runtime" in line]
    rows = inputs.recipe.effective_batch
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]][: STEPS * rows]
    return {
        "bytes": meter.peak,
        "step_seconds": clock.steps[1],
        "eval_seconds": evaluated[-1] if evaluated else 0.0,
        "save_seconds": clock.save,
        "rows": rows,
        "length": max(lengths),
        "tokens": round(rows * sum(lengths) / len(lengths)),
        "device": device.words,
    }


def longest_batches(encoded: Encoded, inputs: Inputs) -> Encoded:
    """As many of the longest examples as the steps and one evaluation batch take."""
    recipe = inputs.recipe
    packing = recipe.schedule.packing
    rows = recipe.effective_batch * (_examples_a_row(encoded, inputs) if packing else 1)
    # The same ones in both steps: the second is then of the longest too. Of packed rows the last are not full: those
    # of a step more, which is not made.
    once = _longest(encoded.train, rows)
    return Encoded(once * (STEPS + packing), _longest(encoded.held_out, recipe.evaluation.per_device_eval_batch_size))


def _longest(examples: list[Example], count: int) -> list[Example]:
    """The `count` longest; they are repeated where there are fewer."""
    by_length = sorted(examples, key=lambda one: len(one.input_ids), reverse=True)[:count]
    return (by_length * (count // len(by_length) + 1))[:count] if by_length else []


def _examples_a_row(encoded: Encoded, inputs: Inputs) -> int:
    """Enough of the longest examples to fill a packed row, and one more as the packing is never perfect."""
    longest = max(len(one.input_ids) for one in encoded.train)
    return inputs.recipe.data.max_length // longest + 1


def _clock(work: Worker, trainer: Any, conductor: Any) -> Any:
    """Takes the time of steps and of the checkpoint."""
    from transformers import TrainerCallback

    from studio.engine.compat.transformers import call_first

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[float] = []
            self.save = self.began = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
            work.progress("Training on the longest examples", state.global_step, STEPS)
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
            self.steps.append(time.perf_counter() - self.began)

    clock, save = Clock(), conductor.save

    def timed(*given: Any) -> None:
        began = time.perf_counter()
        save(*given)
        clock.save = max(clock.save, time.perf_counter() - began)

    conductor.save = timed
    # Before the others: none of what they do at a step's end is part of it.
    call_first(trainer, clock)
    return clock


if __name__ == "__main__":
    raise SystemExit(main())
