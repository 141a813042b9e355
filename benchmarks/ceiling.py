"""Compare training speed with the limit set by the machine's matrix products alone.

    python -m benchmarks.ceiling MODEL_FOLDER ROWS.jsonl [--dtype bfloat16] [--batch 8] [--steps 6] [--rounds 3]

Runs the products of a step one after the other into preallocated memory: every frozen linear layer forward and for the
gradient of its input, LoRA's (r 16), and the vocabulary head for the trained tokens. Attention's products and work that
is not a product are left out, so the reported share is rather too low than too high. A step's tokens are the mean over
batches of the computed tokens: shared prefixes once, and nothing after the last trained token. Training and products
alternate; medians are printed.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import ours, plain_rows
from studio.dataset.tokens.training_set import encode_dataset
from studio.engine.fast.collator import RowCollator
from studio.recipe import Recipe
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.settings import Settings

R = 16
REPEATS = 5
ROTATED = 8  # input matrices per shape, used in turn: together larger than a core's cache


def products(folder: Path, tokens: int, trained: int) -> list[tuple[int, int, int]]:
    """List (n, k, m) of every [n, k] @ [k, m] product of a step; backward products follow their forward ones."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    head = model.get_output_embeddings()
    shapes: list[tuple[int, int, int]] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            height, width = module.weight.shape
            shapes += [(tokens, width, height), (tokens, height, width)]
            shapes += [(tokens, width, R), (tokens, R, height)]  # forward
            shapes += [(tokens, height, R), (tokens, R, width), (R, tokens, height), (R, tokens, width)]  # backward
    vocabulary, width = head.weight.shape
    return [*shapes, (trained, width, vocabulary), (trained, vocabulary, width)]


def seconds_of(shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> float:
    """Time all products in sequence, each with its own matrices, so that no cache holds the next one's inputs."""
    right = [torch.full((m, k), 0.5, dtype=dtype).t() for _, k, m in shapes]
    left = {(n, k): [torch.full((n, k), 0.5, dtype=dtype) for _ in range(ROTATED)] for n, k, _ in shapes}
    outputs = {(n, m): [torch.empty(n, m, dtype=dtype) for _ in range(ROTATED)] for n, _, m in shapes}
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for index, (n, k, m) in enumerate(shapes):
            torch.mm(left[n, k][index % ROTATED], right[index], out=outputs[n, m][index % ROTATED])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def shape_of_a_step(studio: Studio, recipe: Recipe, folder: Path, batch: int) -> tuple[int, int, int]:
    """Return the mean tokens of a step, the computed ones among them, and the trained ones."""
    dataset = datasets.get(studio, "rows")
    rows = encode_dataset(studio.settings.datasets / dataset.id, recipe.data, folder, 0).train
    tokens = sum(len(row.input_ids) for row in rows)
    trained = sum(label != -100 for row in rows for label in row.labels)
    random.Random(0).shuffle(rows)
    computed = 0
    for first in range(0, len(rows), batch):
        inputs = RowCollator(None)(
            [
                {"input_ids": row.input_ids, "labels": row.labels, "seq_lengths": [len(row.input_ids)]}
                for row in rows[first : first + batch]
            ]
        )
        computed += int(inputs["seq_read"].sum() - inputs["seq_prefixes"][:, 1].sum())
    return batch * tokens // len(rows), batch * computed // len(rows), batch * trained // len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ceiling")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows-used", type=int, default=512)
    args = parser.parse_args()
    args.quantization, args.dropout, args.max_length, args.engine = "none", 0.05, 1024, "auto"
    recipe = Recipe().with_values({"held_out": 0, "max_length": args.max_length})
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        rows = plain_rows(args.rows, Path(scratch) / "rows.jsonl", args.rows_used)
        with Keeper(Settings(home=Path(scratch) / "home", offline=True, keeper_interval=0.2)).start() as studio:
            datasets.add(studio, rows, name="rows")
            model = models.add(studio, str(args.model), lambda *_: None).id
            tokens, computed, trained = shape_of_a_step(studio, recipe, args.model, args.batch)
            shapes = products(args.model, computed, trained)
            work = sum(2 * n * k * m for n, k, m in shapes)
            for _ in range(args.rounds):
                alone = seconds_of(shapes, getattr(torch, args.dtype))
                result: dict[str, Any] = ours(studio, model, args)
                shares.append(result["tokens_per_s"] * alone / tokens)
                speed = f"{tokens / alone:.0f} tokens/s, {work / alone / 1e9:.0f} GFLOP/s"
                description = f"{tokens} tokens, {computed} computed, {trained} trained: products alone {speed}"
                print(f"{description}; training {result['tokens_per_s']:.0f}")
    print(f"share: {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})")


if __name__ == "__main__":
    main()
