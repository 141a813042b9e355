"""Checking 50,000 rows with exact token counts, beside `datasets` and `map` with the same tokenizer.

    python benchmarks/data_check.py MODEL_FOLDER QUESTIONS.jsonl [--rows 50000] [--rounds 3]

QUESTIONS has the fields question and answer (GSM8K); its rows are repeated with their numbers varied. Each side runs in
processes of its own, in turn, so that noise hits all alike; memory is the highest sum of resident sizes of the process
and its children. The peers count tokens and nothing else: `map` row by row with the chat template (as TRL prepares a
dataset) and `map` in batches of 1,000 with the texts rendered first (the quickest plain way). Ours also says what is
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
    """Seconds, peak MiB of the process tree, and the last line printed."""
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
    """One peer, in this process: prints its number of tokens."""
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

    made = rows.map(many, batched=True) if batched else rows.map(one)
    print(json.dumps({"total": sum(made["total"]), "trained": sum(made["trained"])}))


def ours(model: str, path: str, home: str) -> None:
    """The check and the counts, as the page and the command line make them; then the counts again, from the cache."""
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
    told = parser.parse_args()
    if told.side == "ours":
        ours(told.model, str(told.questions), told.scratch)
        return
    if told.side:
        peer(told.model, str(told.questions), told.side == "batched", told.scratch)
        return
    results: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        make_rows(told.questions, rows, told.rows)
        print(f"{told.rows:,} rows, {rows.stat().st_size / 2**20:.1f} MiB")
        for turn in range(told.rounds):
            for side in ("ours", "map", "batched"):
                folder = Path(scratch) / f"{side}-{turn}"
                command = [sys.executable, __file__, told.model, str(rows), "--side", side, "--scratch", str(folder)]
                seconds, peak, said = measured(command)
                results.setdefault(side, []).append((seconds, peak))
                print(
                    f"{side:8} {seconds:6.1f} s {peak:6.0f} MiB {told.rows / seconds:8.0f} rows/s  {said}", flush=True
                )
    base = statistics.median(seconds for seconds, _ in results["ours"])
    for side, values in results.items():
        seconds = statistics.median(value for value, _ in values)
        memory = max(value for _, value in values)
        print(f"{side}: median {seconds:.1f} s, {seconds / base:.2f} times ours, peak {memory:.0f} MiB")


if __name__ == "__main__":
    main()
