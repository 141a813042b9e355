"""Compare the memory estimate with measured peaks, configuration by configuration.

    python -m benchmarks.estimator [SMOLLM2_FOLDER] [--subset] [--models FOLDER] [--json FILE]

Measured is live tensor storage on a CPU, torch.cuda.max_memory_allocated on CUDA; predicted is the estimate without the
runtime's share. For comparison it prints `accelerate estimate-memory`'s rule for training with Adam (accelerate 1.15,
commands/estimate.py, estimate_training_usage): four times the model in float32, twice it in 16 bits.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.estimator import measure, shapes
from benchmarks.estimator.configurations import SMOLLM2, Configuration, all_configurations, subset
from studio.machine import facts as machine_facts
from studio.memory.estimate import footprint
from studio.memory.shapes import ModelShape, read_shape
from studio.recipe import Recipe

MIB = 2**20


@dataclass(frozen=True)
class Result:
    """Peak bytes of one configuration: predicted, measured, and by accelerate's rule."""

    configuration: Configuration
    predicted: int
    measured: int
    accelerate: int
    exact_parameters: bool

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def recipe_of(case: Configuration) -> Recipe:
    """Build the recipe of a configuration; dropout is 0 unless the configuration sets it."""
    usual = {"per_device_train_batch_size": case.batch, "per_device_eval_batch_size": case.batch, "held_out": 0.1}
    return Recipe().with_values({**usual, "lora_dropout": 0, "max_length": case.length, **case.values})


def accelerate_rule(shape: ModelShape, recipe: Recipe) -> int:
    """Return the bytes that `accelerate estimate-memory` gives for training this model with Adam."""
    fp32 = 4 * shape.parameters
    return 4 * fp32 if recipe.model.dtype == "float32" else 2 * fp32


def run(case: Configuration, folder: Path, cuda: bool) -> Result:
    """Measure one configuration on the model in `folder`."""
    recipe = recipe_of(case)
    measured = measure.measure(folder, recipe, case.length, case.share)
    shape = read_shape(folder)
    share = measure.trained_share(recipe, case.length, case.share)
    facts = machine_facts.found_by_training()
    estimate = footprint(shape, recipe, "cuda" if cuda else "cpu", case.length, share, facts)
    return Result(
        case,
        estimate.allocated,
        measured.peak,
        accelerate_rule(shape, recipe),
        estimate.trainable == measured.trainable,
    )


def summary(results: Sequence[Result]) -> str:
    """Summarise the errors of the estimate and of accelerate's rule: median, 95th percentile, largest."""
    errors = sorted(abs(result.error) for result in results)
    rule = sorted(abs(result.accelerate / result.measured - 1) for result in results)
    under = sum(result.error < -0.05 for result in results)
    wrong = sum(not result.exact_parameters for result in results)
    last = len(errors) - 1
    return (
        f"{len(results)} configurations. Estimate: median absolute error {errors[last // 2]:.1%}, 95th percentile "
        f"{errors[round(0.95 * last)]:.1%}, largest {errors[-1]:.1%}; {under} underestimated by more than 5%. "
        f"accelerate estimate-memory's rule: median {rule[last // 2]:.0%}, 95th percentile "
        f"{rule[round(0.95 * last)]:.0%}. Trainable parameters differ from PEFT's in {wrong}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimator")
    parser.add_argument("smollm2", type=Path, nargs="?", help="folder of SmolLM2-135M; without it SmolLM2 is skipped")
    parser.add_argument("--subset", action="store_true", help="run eight configurations instead of all")
    parser.add_argument("--models", type=Path, help="where to keep the random models; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    configurations = subset() if args.subset else all_configurations()
    configurations = [case for case in configurations if case.model != SMOLLM2 or args.smollm2]
    with tempfile.TemporaryDirectory() as scratch:
        results = _table(configurations, args.models or Path(scratch), args.smollm2)
    print("\n" + summary(results))
    worst = sorted(results, key=lambda result: -abs(result.error))[:8]
    print(
        "Worst: "
        + "; ".join(f"{item.configuration.model} {item.configuration.words} {item.error:+.1%}" for item in worst)
    )
    if args.json:
        figures = [[result.configuration.model, result.configuration.batch, result.configuration.length,
                    result.configuration.words, result.predicted, result.measured] for result in results]  # fmt: skip
        args.json.write_text(json.dumps(figures))


def _table(configurations: Sequence[Configuration], models: Path, smollm2: Path | None) -> list[Result]:
    from studio.engine.inference import loading

    cuda, start, results = loading.pick_device().is_cuda, time.monotonic(), []
    print("| model | batch | length | recipe | predicted MiB | measured MiB | error | accelerate MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for case in configurations:
        folder = smollm2 if case.model == SMOLLM2 and smollm2 else shapes.make(models, case.model)
        try:
            result = run(case, folder, cuda)
        except Exception as error:
            # A configuration that cannot be trained is skipped; the others are still measured.
            print(f"{case.model} {case.words}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr, flush=True)
            continue
        results.append(result)
        figures = f"{result.predicted / MIB:,.1f} | {result.measured / MIB:,.1f} | {result.error:+.1%}"
        print(f"| {case.model} | {case.batch} | {case.length} | {case.words} | {figures} | "
              f"{result.accelerate / MIB:,.0f} |", flush=True)  # fmt: skip
    print(f"\nIn {time.monotonic() - start:.0f} s on {'CUDA' if cuda else 'a CPU'}.", file=sys.stderr)
    return results


if __name__ == "__main__":
    main()
