"""Measure the cost of base and adapted model answering together, and compare their answers with plain PEFT's.

    python -m benchmarks.compare MODEL_FOLDER [--adapter FOLDER] [--tokens 96] [--rounds 3] [--dtype float32]
                                 [--threads N]

Without --adapter, an adapter with random weights is created, rank 16 on all linear layers. Answers are greedy, without
an end token, through the chat worker's own loop in this process. Each round measures, one after the other:

    alone       one answer, base or adapted; the mean of both
    together    both in one pass
    in turn     both, one after the other, with the adapter switched in between (the same loop)
    plain       both, one after the other, by transformers' generate and PEFT's disable_adapter

Reports seconds by the clock and of processor time; with --threads 1 the latter is meaningful on a machine that others
use too. Memory is counted from the weights in memory, which does not depend on what else the process has loaded; the
peak of the process is reported too. Prints JSON.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from studio.dataset.tokens.encode import Encoder
from studio.engine.inference import generation, loading
from studio.engine.inference.adapter_slots import BASE, AdapterSlots
from studio.recipe.fields import Data

QUESTION = "My parcel has not arrived after nine days. What should I write to the shop?"


def random_adapter(model: Path, folder: Path) -> Path:
    """Create a rank-16 LoRA on all linear layers with random A and B, large enough to change the answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = loading.load_base(model, "float32", loading.Device("cpu", "CPU"))
    adapted = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


class Table:
    """Base and adapted model on shared weights, with different ways to generate."""

    def __init__(self, model: Path, adapter: Path, dtype: str, tokens: int) -> None:
        device = loading.pick_device()
        self.tokens = tokens
        self.seats = AdapterSlots(model, dtype, device, lambda _: None)
        self.alone = held_by(next(self.seats.groups([BASE])).inner)
        self.seats.load("adapted", adapter)
        self.encoder = Encoder(model, Data())
        self.prompt = self.encoder.prompt_ids([{"role": "user", "content": QUESTION}])

    def ask(self, *names: str) -> dict[str, list[int]]:
        """Generate with the chat's loop; return the tokens of each."""
        answers: dict[str, list[int]] = {name: [] for name in names}
        (group,) = self.seats.groups(names)

        def take(row: int, token: int) -> bool:
            answers[group.columns[row]].append(token)
            return len(answers[group.columns[row]]) < self.tokens

        with group.as_wanted() as leave:
            rows = generation.Rows([self.prompt] * len(names), take, leave=leave)
            generation.answer(group.inner, rows, generation.SamplingOptions(), self.encoder.pad_id)
        return answers

    def plain(self, name: str) -> list[int]:
        """Generate with transformers' generate; return the tokens."""
        import contextlib

        (group,) = self.seats.groups([name])
        ids = torch.tensor([self.prompt], device=group.inner.device)
        off = group.model.disable_adapter() if name == BASE else contextlib.nullcontext()
        with torch.inference_mode(), off:
            output = group.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.tokens, do_sample=False,
                min_new_tokens=None, eos_token_id=None, pad_token_id=self.encoder.pad_id,
            )  # fmt: skip
        return [int(token) for token in output[0, len(self.prompt) :]]


def held_by(model: Any) -> int:
    """Return the bytes of the weights, each counted once."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}.values())


def clock(work: Any) -> tuple[float, float]:
    """Run `work`; return seconds by the clock and of processor time."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def medians(times: dict[str, list[tuple[float, float]]], which: int) -> dict[str, float]:
    """Return the median seconds of each way, and ratios between them."""
    seconds = {name: statistics.median(round_[which] for round_ in rounds) for name, rounds in times.items()}
    one = statistics.mean([seconds["base alone"], seconds["adapted alone"]])
    both = seconds["together"]
    shares = {
        "together / one alone": both / one,
        "together / in turn": both / seconds["in turn"],
        "together / plain": both / seconds["plain"],
    }
    return {name: round(value, 3) for name, value in {**seconds, **shares}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare")
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    loading.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        adapter = args.adapter or random_adapter(args.model, Path(folder))
        table = Table(args.model, adapter, args.dtype, args.tokens)
    ways = {
        "base alone": lambda: table.ask(BASE),
        "adapted alone": lambda: table.ask("adapted"),
        "together": lambda: table.ask(BASE, "adapted"),
        "in turn": lambda: (table.ask(BASE), table.ask("adapted")),
        "plain": lambda: (table.plain(BASE), table.plain("adapted")),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    table.ask(BASE, "adapted")  # once to warm up
    for _ in range(args.rounds):
        for name, work in ways.items():
            times[name].append(clock(work))
    both = table.ask(BASE, "adapted")
    wall = medians(times, 0)
    weights = held_by(next(table.seats.groups(["adapted"])).inner)
    print(
        json.dumps(
            {
                "tokens": args.tokens,
                "dtype": args.dtype,
                "threads": torch.get_num_threads(),
                "by the clock": wall,
                "of processor time": medians(times, 1),
                "tokens/s a side together": round(args.tokens / wall["together"], 1),
                "weights / base's": round(weights / table.alone, 3),
                "peak MiB of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "equal to plain": {name: answer == table.plain(name) for name, answer in both.items()},
                "differ": both[BASE] != both["adapted"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
