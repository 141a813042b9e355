"""Compare what the fast path and the reference learn: held-out loss of whole runs on both, for several seeds.

    python -m benchmarks.seeds MODEL_FOLDER ROWS.jsonl [--seeds 3] [--steps 200] [--batch 2] [--dtype bfloat16]

The reference is TRL's own path as the studio runs it, whose losses equal a plain script's (RESULTS.md). For each seed
both use the same rows, the same held-out tenth and the same order; dropout masks are drawn differently.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.train import plain_rows
from studio.recipe import Recipe
from studio.services.core.keeper import Keeper
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.services.runs import runs
from studio.settings import Settings


def held_out_loss(studio: Studio, recipe: Recipe) -> float:
    """Train a run of this recipe and return its held-out loss at the end."""
    run = runs.start(studio, recipe)
    while (info := runs.get(studio, run.id)).state not in FINAL:
        time.sleep(0.2)
    if info.state != "completed":
        raise SystemExit(info.message + runs.log_tail(studio, run.id))
    return float(runs.points(studio, run.id).evals[-1]["eval_loss"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rows-used", type=int, default=512)
    args = parser.parse_args()
    found_losses: dict[str, list[float]] = {"auto": [], "trl": []}
    with tempfile.TemporaryDirectory() as scratch:
        rows = plain_rows(args.rows, Path(scratch) / "rows.jsonl", args.rows_used)
        with Keeper(Settings(home=Path(scratch) / "home", offline=True, keeper_interval=0.2)).start() as studio:
            datasets.add(studio, rows, name="rows")
            model = models.add(studio, str(args.model), lambda *_: None).id
            for seed in range(args.seeds):
                for engine, losses in found_losses.items():
                    recipe = Recipe().with_values(
                        {
                            "model": model, "dataset": "rows", "dtype": args.dtype, "held_out": 0.1, "seed": seed,
                            "max_steps": args.steps, "per_device_train_batch_size": args.batch, "eval_steps": 0,
                            "engine": engine, "r": 16, "lora_alpha": 32, "save_steps": 0,
                        }
                    )  # fmt: skip
                    losses.append(held_out_loss(studio, recipe))
                    print(f"seed {seed}, {engine}: {losses[-1]:.4f}", file=sys.stderr, flush=True)
    gaps = [fast / reference - 1 for fast, reference in zip(found_losses["auto"], found_losses["trl"], strict=True)]
    for name, losses in (("fast", found_losses["auto"]), ("reference", found_losses["trl"])):
        print(f"{name}: {' '.join(f'{loss:.4f}' for loss in losses)}, mean {statistics.mean(losses):.4f}")
    spread = max(found_losses["trl"]) / min(found_losses["trl"]) - 1
    print(f"apart by {' '.join(f'{gap:+.2%}' for gap in gaps)}; seeds of the reference by up to {spread:.2%}")


if __name__ == "__main__":
    main()
