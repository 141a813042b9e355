"""Compare training here with plain TRL: tokens per second, memory, seconds to the first step, losses.

    python -m benchmarks.train MODEL_FOLDER ROWS.jsonl [--dtype bfloat16] [--quantization nf4] [--steps 6] [--batch 8]
        [--accumulation 1] [--rounds 5] [--dropout 0.05] [--only ours,tuned] [--device cpu]

Each round runs, one after the other and each in a separate process: ours; TRL default (checkpointing, autocast, the
system's allocator); TRL tuned (neither, and our allocator); on a GPU, if requested with --only, Unsloth. Same rows,
order, seed, batch and settings; the first step is not timed. Ratios are of the pairs of a round: median, lowest and
highest. Losses are those of the first round, compared between all sides: the difference between the peers is what
rounding does. ROWS has instruction and output, or question and answer. Without a GPU, --device cuda exits with a
message.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.launch import environment
from studio.recipe import Recipe
from studio.services.core.keeper import Keeper
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.services.runs import runs
from studio.settings import Settings

PEERS = {side: Path(__file__).with_name(f"peer_{'unsloth' if side == 'unsloth' else 'trl'}.py")
         for side in ("trl", "tuned", "unsloth")}  # fmt: skip
SIDES = ("ours", *PEERS)


def plain_rows(source: Path, target: Path, count: int) -> Path:
    """Write the first `count` rows as instruction, input and output; return the target."""
    with source.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:count]
    converted = [
        {
            "instruction": row.get("instruction", row.get("question", "")),
            "input": row.get("input", ""),
            "output": row.get("output", row.get("answer", "")),
        }
        for row in rows
    ]
    target.write_text("".join(json.dumps(row) + "\n" for row in converted), encoding="utf-8")
    return target


def ours(studio: Studio, model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one run in the studio, including its queue, and return the figures."""
    recipe = Recipe().with_values(
        {
            "model": model, "dataset": "rows", "dtype": args.dtype, "quantization": args.quantization, "held_out": 0,
            "lora_dropout": args.dropout, "max_steps": args.steps, "per_device_train_batch_size": args.batch,
            "gradient_accumulation_steps": args.accumulation,
            "lr_scheduler_type": "constant", "warmup_ratio": 0, "max_length": args.max_length,
            "engine": args.engine, "r": 16, "lora_alpha": 32, "save_steps": 0,
        }
    )  # fmt: skip
    start = time.time()
    run = runs.start(studio, recipe)
    while (info := runs.get(studio, run.id)).state not in FINAL:
        time.sleep(0.1)
    if info.state != "completed":
        raise SystemExit(info.message + runs.log_tail(studio, run.id))
    points = runs.points(studio, run.id).metrics
    seconds = [point["step_seconds"] for point in points]
    tokens = points[-1]["tokens"] - points[0]["tokens"]
    return {
        "losses": [point["loss"] for point in points],
        "tokens_per_s": tokens / sum(seconds[1:]),
        "peak_rss_mib": max(point["memory"] for point in points) / 2**20,
        "first_step_s": points[0]["time"] - seconds[0] - start,
    }


def peer(folder: Path, rows: Path, args: argparse.Namespace, side: str) -> dict[str, Any]:
    """Run one plain script and return the figures that it prints."""
    tuned = side == "tuned"
    command = [sys.executable, str(PEERS[side]), str(folder), str(rows), "--dtype", args.dtype,
               "--steps", str(args.steps), "--quantization", args.quantization, "--batch", str(args.batch),
               "--accumulation", str(args.accumulation),
               "--dropout", str(args.dropout), "--max-length", str(args.max_length),
               "--tuned" if tuned else "--gradient-checkpointing"]  # fmt: skip
    env = os.environ | {"HF_HUB_OFFLINE": "1"} | (environment.allocator()[1] if tuned else {})
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if process.returncode:
        raise SystemExit(process.stderr[-2000:])
    return dict(json.loads(process.stdout.splitlines()[-1]))


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(results: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print the table, the ratios of the pairs and the differences of the losses."""
    print("| side | tokens/s | peak MiB | seconds to the first step |\n|---|---|---|---|")
    for side, rounds in results.items():
        figures = [
            spread([one[name] for one in rounds], digits)
            for name, digits in (("tokens_per_s", 0), ("peak_rss_mib", 0), ("first_step_s", 1))
        ]
        print(f"| {side} | {' | '.join(figures)} |")
    for side in results:
        if side == "ours" or "ours" not in results:
            continue
        pairs = list(zip(results["ours"], results[side], strict=True))
        ratios = {
            name: spread([our_result[name] / peer_result[name] for our_result, peer_result in pairs])
            for name in ("tokens_per_s", "peak_rss_mib", "first_step_s")
        }
        print(f"ours / {side}: tokens/s {ratios['tokens_per_s']}, memory {ratios['peak_rss_mib']}, "
              f"to the first step {ratios['first_step_s']}")  # fmt: skip
    for (one, our_rounds), (other, other_rounds) in itertools.combinations(results.items(), 2):
        gaps = [a / b - 1 for a, b in zip(our_rounds[0]["losses"], other_rounds[0]["losses"], strict=True)]
        print(
            f"losses, {one} to {other}: at most {max(map(abs, gaps)):.1e} apart, "
            f"{statistics.median(map(abs, gaps)):.1e} in the median, {statistics.mean(gaps):+.1e} on average"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1, help="batches per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--rows-used", type=int, default=512)
    parser.add_argument("--engine", choices=["auto", "fast", "trl"], default="auto", help="engine of our side")
    parser.add_argument(
        "--only", default="ours,trl,tuned", help=f"sides to run, of {','.join(SIDES)}; unsloth needs a GPU"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="write every figure and loss to this JSON file")
    args = parser.parse_args()
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("There is no NVIDIA GPU here.")
        args.engine = "fast" if args.engine == "auto" else args.engine
    sides = [side for side in SIDES if side in args.only.split(",")]
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as scratch:
        rows = plain_rows(args.rows, Path(scratch) / "rows.jsonl", args.rows_used)
        with Keeper(Settings(home=Path(scratch) / "home", offline=True, keeper_interval=0.2)).start() as studio:
            datasets.add(studio, rows, name="rows")
            model = models.add(studio, str(args.model), lambda *_: None).id
            for number in range(args.rounds):
                for side in sides:
                    result = ours(studio, model, args) if side == "ours" else peer(args.model, rows, args, side)
                    results[side].append(result)
                    print(f"round {number + 1} {side}: {result['tokens_per_s']:.0f} tokens/s, "
                          f"{result['peak_rss_mib']:.0f} MiB, first step after {result['first_step_s']:.1f} s",
                          file=sys.stderr, flush=True)  # fmt: skip
    report(results)
    if args.out:
        args.out.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
