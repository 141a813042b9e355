"""Measure how long the studio takes to answer an edit of the form: the estimate and everything that goes with it.

    python -m benchmarks.form HOME MODEL DATASET [--edits 200]

Needs a home with the model and the dataset. Prints median and 95th percentile, on this machine and for a device where
the recipe does not fit (then the fixes are computed as well).
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

from studio.recipe import Recipe
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.planning import estimates
from studio.settings import Settings

EDITS: dict[str, list[Any]] = {
    "r": [4, 8, 16, 32, 64],
    "per_device_train_batch_size": [1, 2, 4, 8, 16],
    "max_length": [128, 256, 512, 1024, 2048],
    "gradient_checkpointing": [True, False],
    "quantization": ["none", "nf4", "int8"],
    "use_dora": [True, False],
    "learning_rate": [1e-4, 2e-4, 1e-3],
    "gradient_accumulation_steps": [1, 4],
    "lora_dropout": [0.0, 0.05],
}


def answer(studio: Studio, recipe: Recipe, edits: int, device_memory: int | None) -> list[float]:
    """Return the sorted milliseconds of the edits, without the first one, which reads the model's header."""
    rng, times = random.Random(0), []
    for _ in range(edits + 1):
        name = rng.choice(list(EDITS))
        recipe = recipe.with_values({name: rng.choice(EDITS[name])})
        start = time.perf_counter()
        estimates.estimate(studio, recipe, device_memory)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.form")
    parser.add_argument("home", type=Path)
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--edits", type=int, default=200)
    args = parser.parse_args()
    with Keeper(Settings.from_env(home=args.home)) as studio:
        recipe = Recipe().with_values({"model": args.model, "dataset": args.dataset})
        for label, device_memory in (("this machine", None), ("a GPU of 1/4 GiB, too small", 2**28)):
            times = answer(studio, recipe, args.edits, device_memory)
            print(
                f"{label}: median {times[len(times) // 2]:.1f} ms, 95th percentile {times[int(0.95 * len(times))]:.1f} "
                f"ms, slowest {times[-1]:.1f} ms of {len(times)} edits"
            )


if __name__ == "__main__":
    main()
