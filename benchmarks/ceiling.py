"""How near training comes to what the machine's matrix products alone would allow.

    python -m benchmarks.ceiling MODEL_FOLDER ROWS.jsonl [--dtype bfloat16] [--batch 8] [--steps 6] [--rounds 3]

The products of a step, one after the other into memory that is there already: every frozen linear layer forward
and for the gradient of its input, LoRA's (r 16), and the vocabulary for the trained tokens. Not asked, so that the
share is told too low rather than too high: attention's, and what no product is. A step's tokens are the mean over
batches of the rows, as far as they are computed: what the rows of a batch begin with alike once, and nothing behind
what is trained. Both in turn, medians.
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
ROTATED = 8  # matrices of tokens of a shape, taken in turn: together larger than a core's cache


def products(folder: Path, tokens: int, trained: int) -> list[tuple[int, int, int]]:
    """(n, k, m) of every [n, k] by [k, m] of a step, in their order but for the backward ones, which stand beside."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    head = model.get_output_embeddings()
    found: list[tuple[int, int, int]] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            out, width = module.weight.shape
            found += [(tokens, width, out), (tokens, out, width)]
            found += [(tokens, width, R), (tokens, R, out)]  # forward
            found += [(tokens, out, R), (tokens, R, width), (R, tokens, out), (R, tokens, width)]  # backward
    words, width = head.weight.shape
    return [*found, (trained, width, words), (trained, words, width)]


def seconds_of(asked: list[tuple[int, int, int]], dtype: torch.dtype) -> float:
    """Of all the products one after the other, each with matrices of its own: no cache has what the next one needs."""
    right = [torch.full((m, k), 0.5, dtype=dtype).t() for _, k, m in asked]
    left = {(n, k): [torch.full((n, k), 0.5, dtype=dtype) for _ in range(ROTATED)] for n, k, _ in asked}
    answers = {(n, m): [torch.empty(n, m, dtype=dtype) for _ in range(ROTATED)] for n, _, m in asked}
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for place, (n, k, m) in enumerate(asked):
            torch.mm(left[n, k][place % ROTATED], right[place], out=answers[n, m][place % ROTATED])
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def shape_of_a_step(studio: Studio, recipe: Recipe, folder: Path, batch: int) -> tuple[int, int, int]:
    """Mean tokens of a step, those of them that are computed, and trained ones."""
    dataset = datasets.get(studio, "rows")
    rows = encode_dataset(studio.settings.datasets / dataset.id, recipe.data, folder, 0).train
    tokens = sum(len(row.input_ids) for row in rows)
    trained = sum(label != -100 for row in rows for label in row.labels)
    random.Random(0).shuffle(rows)
    computed = 0
    for first in range(0, len(rows), batch):
        made = RowCollator(None)(
            [
                {"input_ids": row.input_ids, "labels": row.labels, "seq_lengths": [len(row.input_ids)]}
                for row in rows[first : first + batch]
            ]
        )
        computed += int(made["seq_read"].sum() - made["seq_prefixes"][:, 1].sum())
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
    given = parser.parse_args()
    given.quantization, given.dropout, given.max_length, given.engine = "none", 0.05, 1024, "auto"
    recipe = Recipe().with_values({"held_out": 0, "max_length": given.max_length})
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        rows = plain_rows(given.rows, Path(scratch) / "rows.jsonl", given.rows_used)
        with Keeper(Settings(home=Path(scratch) / "home", offline=True, keeper_interval=0.2)).start() as studio:
            datasets.add(studio, rows, name="rows")
            model = models.add(studio, str(given.model), lambda *_: None).id
            tokens, computed, trained = shape_of_a_step(studio, recipe, given.model, given.batch)
            asked = products(given.model, computed, trained)
            work = sum(2 * n * k * m for n, k, m in asked)
            for _ in range(given.rounds):
                alone = seconds_of(asked, getattr(torch, given.dtype))
                told: dict[str, Any] = ours(studio, model, given)
                shares.append(told["tokens_per_s"] * alone / tokens)
                speed = f"{tokens / alone:.0f} tokens/s, {work / alone / 1e9:.0f} GFLOP/s"
                said = f"{tokens} tokens, {computed} computed, {trained} trained: products alone {speed}"
                print(f"{said}; training {told['tokens_per_s']:.0f}")
    print(f"share: {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})")


if __name__ == "__main__":
    main()
