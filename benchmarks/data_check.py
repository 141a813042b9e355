"""Check 50,000 rows with exact token counts, compared with `datasets` and `map` with the same tokenizer.

    python benchmarks/data_check.py MODEL_FOLDER QUESTIONS.jsonl [--rows 50000] [--rounds 3]

QUESTIONS has the fields question and answer (GSM8K); its rows are repeated with their numbers varied. Each side runs in
separate processes, in turn, so that noise affects all sides equally; memory is the highest sum of resident sizes of the
process and its children. The peers only count tokens: `map` row by row with the chat template (as TRL prepares a
dataset) and `map` in batches of 1,000 with the texts rendered first (the fastest plain way). Ours also reports what is
wrong with the rows, finds exact and near repeats and writes the dataset.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def make_rows(source: Path, out: Path, count: int) -> None:
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]

    def varied(text: str, by: int) -> str:
        return re.sub(r"\d{1,8}", lambda number: str(int(number[0]) + by), text)

    with out.open("w", encoding="utf-8") as file:
        for at in range(count):
            row, by = rows[at % len(rows)], at // len(rows)
            value = {"instruction": varied(row["question"], by), "output": varied(row["answer"], by)}
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def measured(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return seconds, peak MiB of the process tree, and the last line printed."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            try:
                parent = psutil.Process(process.pid)
                sizes = [item.memory_info().rss for item in [parent, *parent.children(recursive=True)]]
                peak[0] = max(peak[0], sum(sizes))
            except psutil.Error:
                continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, _ = process.communicate()
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return time.monotonic() - started, peak[0] / 2**20, out.strip().splitlines()[-1]


def peer(model: str, path: str, batched: bool, cache: str) -> None:
    """Run one peer in this process and print its number of tokens."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    rows = load_dataset("json", data_files=path, split="train", cache_dir=cache)

    def messages(question: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def one(row: dict[str, str]) -> dict[str, int]:
        whole = messages(row["instruction"], row["output"])
        prompt = tokenizer.apply_chat_template(whole[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"]
        return {"total": len(ids), "trained": len(ids) - len(prompt)}

    def many(batch: dict[str, list[str]]) -> dict[str, list[int]]:
        pairs = list(zip(batch["instruction"], batch["output"], strict=True))
        texts = [tokenizer.apply_chat_template(messages(q, a), tokenize=False) for q, a in pairs]
        prompts = [
            tokenizer.apply_chat_template(messages(q, a)[:1], add_generation_prompt=True, tokenize=False)
            for q, a in pairs
        ]
        totals = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        before = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
        return {"total": totals, "trained": [all_ - some for all_, some in zip(totals, before, strict=True)]}

    counts = rows.map(many, batched=True) if batched else rows.map(one)
    print(json.dumps({"total": sum(counts["total"]), "trained": sum(counts["trained"])}))


def ours(model: str, path: str, home: str) -> None:
    """Check and count as the page and the command line do; then count again, from the cache."""
    from studio.services.core.keeper import Keeper
    from studio.services.data import checks, examples
    from studio.services.models import models
    from studio.settings import Settings

    with Keeper(Settings(home=Path(home), offline=True)) as studio:
        name = models.add(studio, model, lambda *_: None).id
        started = time.monotonic()
        checked = checks.check(studio, path)
        read = time.monotonic()
        view = examples.measure(studio, checked.token, name)
        counted = time.monotonic()
        again = examples.measure(studio, checked.token, name, {"max_length": 512})
        reopened = time.monotonic()
        assert again.tokens == view.tokens
    figures = {
        "total": view.tokens["total"],
        "trained": view.tokens["trained"],
        "check": read - started,
        "count": counted - read,
        "reopen": reopened - counted,
        "findings": checked.report.counts,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "map", "batched"], help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side == "ours":
        ours(args.model, str(args.questions), args.scratch)
        return
    if args.side:
        peer(args.model, str(args.questions), args.side == "batched", args.scratch)
        return
    results: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        make_rows(args.questions, rows, args.rows)
        print(f"{args.rows:,} rows, {rows.stat().st_size / 2**20:.1f} MiB")
        for turn in range(args.rounds):
            for side in ("ours", "map", "batched"):
                folder = Path(scratch) / f"{side}-{turn}"
                command = [sys.executable, __file__, args.model, str(rows), "--side", side, "--scratch", str(folder)]
                seconds, peak, line = measured(command)
                results.setdefault(side, []).append((seconds, peak))
                print(
                    f"{side:8} {seconds:6.1f} s {peak:6.0f} MiB {args.rows / seconds:8.0f} rows/s  {line}", flush=True
                )
    base = statistics.median(seconds for seconds, _ in results["ours"])
    for side, values in results.items():
        seconds = statistics.median(value for value, _ in values)
        memory = max(value for _, value in values)
        print(f"{side}: median {seconds:.1f} s, {seconds / base:.2f} times ours, peak {memory:.0f} MiB")


if __name__ == "__main__":
    main()
