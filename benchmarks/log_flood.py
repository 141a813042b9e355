"""Measure whether a worker that writes a lot to its log, with nobody reading, trains as fast as a quiet one.

    python -m benchmarks.log_flood HOME MODEL DATASET [--steps 400] [--megabytes 10]

Needs a home with the model and the dataset. One real run of the engine, started as the studio starts it and then
left alone; in every other block of steps it writes its share of the megabytes, a part in each step. Prints milliseconds
per step in both kinds of block and the ratio of neighbouring blocks, which share the same state of the machine.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

BLOCK = 10


def work() -> int:
    """The worker: the engine's own, which also records when each step starts and writes in every other block."""
    from studio.engine.training import callbacks
    from studio.engine.workers import train

    order = json.loads((Path(sys.argv[1]) / "flood.json").read_text())
    lines = "\n".join(["x" * 99] * (order["bytes"] // 100))
    starts: list[float] = []
    begin = callbacks.JournalCallback.on_step_begin

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        starts.append(time.perf_counter())
        if len(starts) // BLOCK % 2:
            print(lines)
        begin(self, args, state, control, **kwargs)

    callbacks.JournalCallback.on_step_begin = on_step_begin  # type: ignore[method-assign]
    code = train.main()
    (Path(sys.argv[1]) / "steps.json").write_text(json.dumps(starts))
    return code


def main() -> None:
    from studio.launch import workers
    from studio.recipe import Recipe
    from studio.rundir import create
    from studio.services.core.keeper import Keeper
    from studio.services.runs import runs
    from studio.settings import Settings

    parser = argparse.ArgumentParser(prog="python -m benchmarks.log_flood")
    parser.add_argument("home", type=Path)
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--megabytes", type=float, default=10.0)
    args = parser.parse_args()
    values = {"model": args.model, "dataset": args.dataset, "max_steps": args.steps, "held_out": 0.0}
    recipe = Recipe().with_values({**values, "per_device_train_batch_size": 2, "save_steps": 0, "logging_steps": 10})
    with Keeper(Settings.from_env(home=args.home)) as studio:
        files, _ = runs.inputs(studio, recipe)
    share = int(args.megabytes * 2**20 / (args.steps / 2))
    # Outside of the runs folder, so that no studio picks it up meanwhile.
    root = args.home.resolve() / "log-flood"
    root.mkdir(exist_ok=True)
    run = create(root, f"flood-{time.time_ns()}", {**files, "flood.json": json.dumps({"bytes": share})})
    workers.start(run, "benchmarks.log_flood")
    while not (run.path / "steps.json").exists():
        time.sleep(1.0)
        workers.reap()
        if workers.find(run) == "gone" and not (run.path / "steps.json").exists():
            raise SystemExit(run.log_tail())
    starts = json.loads((run.path / "steps.json").read_text())
    steps = [after - before for before, after in itertools.pairwise(starts)]
    blocks = [steps[at : at + BLOCK] for at in range(0, len(steps) - BLOCK + 1, BLOCK)]
    quiet, loud = blocks[2::2], blocks[3::2]  # the first two warm up
    ratios = [
        statistics.median(loud_block) / statistics.median(quiet_block)
        for quiet_block, loud_block in zip(quiet, loud, strict=False)
    ]
    low, _, high = statistics.quantiles(ratios, n=4)
    quiet_ms, loud_ms = (1000 * statistics.median(itertools.chain.from_iterable(kind)) for kind in (quiet, loud))
    print(
        f"log of {run.log.stat().st_size / 2**20:.1f} MiB in {len(starts)} steps; a step takes "
        f"{quiet_ms:.2f} ms quiet and {loud_ms:.2f} ms "
        f"while {share / 1024:.0f} KiB are written in it; ratio of neighbouring blocks: median "
        f"{statistics.median(ratios):.3f}, quartiles {low:.3f} and {high:.3f}, of {len(ratios)} pairs"
    )


if __name__ == "__main__":
    # When started as a worker, it gets a run directory and a nonce.
    if "--nonce" in sys.argv:
        raise SystemExit(work())
    main()
