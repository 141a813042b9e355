"""Measure what an open page costs a training: the same run alone and watched, alternated.

    python -m benchmarks.watching [--pairs 5] [--steps 300] [--model FOLDER] [--rows FILE] [--set dtype=bfloat16 ...]
    python -m benchmarks.watching --within 20 [--steps 600] [...]

Serves a studio with the tiny model of the tests (or the model in FOLDER) and small sums (or the questions and answers
of FILE), and trains the same recipe repeatedly: two rows per step in float32, unless other fields are set. Every other
time a headless Chromium has the run's page open, with live curves. The rate is computed from the times in the journal,
over the steps after the twentieth and, if watched, from ten seconds after the first curve is drawn: the cost of opening
a page, and of cleaning up afterwards, is not part of it.
`--within`: one run; a page follows it for that many seconds, then the browser's processes are suspended for as long,
twice, then it follows again, so that both conditions see the same drift of the machine. Four such turns give one ratio.
The browser shares the machine's processors with the training, as a person's browser would.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

from studio.rundir import Exit, RunDir, read_events
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.services.data.checks import Options
from studio.services.models import models
from studio.settings import Settings
from tests.browser import FLAGS, ensure
from tests.conftest import write_jsonl
from tests.e2e.conftest import Served, serve
from tests.tiny import tiny_model

SKIPPED = 20
SETTLED = 10  # seconds
MAPPING = {"instruction": "question", "output": "answer"}
USUAL = ("dtype=float32", "held_out=0.0", "per_device_train_batch_size=2")


def home_with(folder: Path, model: Path | None, file: Path | None) -> tuple[Path, list[str]]:
    """Create a home with a model and a dataset; return it and the arguments that train the one on the other."""
    home = folder / "home"
    rows: list[dict[str, object]] = [{"instruction": f"{n} + {n} = ?", "output": str(2 * n)} for n in range(200)]
    with Keeper(Settings(home=home, offline=True)) as studio:
        added_model = models.add(studio, str(model or tiny_model(folder / "tiny")), lambda *_: None)
        options = Options(mapping=MAPPING if file else {})
        dataset = datasets.add(studio, file or write_jsonl(folder / "sums.jsonl", rows), options=options)
    return home, ["--model", added_model.id, "--dataset", dataset.name]


def rate(served: Served, words: list[str], browser: Browser | None) -> float:
    """Train one run, watched if there is a browser; return its steps per second."""
    started = served.cli("train", *words)
    run = RunDir(served.home / "runs" / str(started["id"]))
    page, drawn = None, 0.0
    if browser is not None:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(f"{served.url}/?tab=runs&run={run.id}")
        page.wait_for_selector(".curves canvas", timeout=120_000)
        drawn = time.time() + SETTLED
    while (end := Exit.read(run)) is None:
        time.sleep(0.5)
    if page is not None:
        page.close()
    assert end.state == "completed", end
    times = [event.time for event in read_events(run.events).events if event.kind == "metric"][SKIPPED:]
    times = [at for at in times if at > drawn]
    return (len(times) - 1) / (times[-1] - times[0])


def within(served: Served, words: list[str], browser: Browser, seconds: float) -> list[float]:
    """Train one run, watched and alone in turn; return the ratio of the rates for each group of four turns."""
    started = served.cli("train", *words)
    run = RunDir(served.home / "runs" / str(started["id"]))
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{served.url}/?tab=runs&run={run.id}")
    page.wait_for_selector(".curves canvas", timeout=120_000)
    time.sleep(6 * SETTLED)  # a browser collects garbage for a minute after loading a page
    processes = [process for process in psutil.Process().children(recursive=True) if "chrom" in process.name()]
    turns: list[tuple[bool, float, float]] = []
    while (end := Exit.read(run)) is None:
        watched = len(turns) % 4 in (0, 3)  # cancels steady drift
        for process in processes:
            process.resume() if watched else process.suspend()
        time.sleep(2)
        start = time.time()
        time.sleep(seconds)
        turns.append((watched, start, time.time()))
    for process in processes:
        process.resume()
    page.close()
    assert end.state == "completed", end
    times = [event.time for event in read_events(run.events).events if event.kind == "metric"]
    rates: dict[bool, list[float]] = {True: [], False: []}
    for watched, start, stop in turns[: (len(turns) - 1) // 4 * 4]:
        inside = [at for at in times if start <= at <= stop]
        rates[watched].append((len(inside) - 1) / (inside[-1] - inside[0]))
    pairs = zip(*(zip(rates[kind][::2], rates[kind][1::2], strict=True) for kind in (True, False)), strict=True)
    return [math.sqrt(math.prod(watched_rates) / math.prod(alone_rates)) for watched_rates, alone_rates in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a training alone and watched.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--within", type=float, metavar="SECONDS", help="alternate watched and alone within one run, this long each"
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home, words = home_with(Path(folder), args.model, args.rows)
        for setting in (f"max_steps={args.steps}", *USUAL, *args.set):
            words += ["--set", setting]
        served = serve(home)
        browser = playwright.chromium.launch(executable_path=ensure(), args=FLAGS)
        ratios = []
        try:
            if args.within:
                ratios = within(served, words, browser, args.within)
                error = statistics.stdev(ratios) / math.sqrt(len(ratios))
                print(f"{len(ratios)} times four turns of {args.within:.0f} s: mean {statistics.mean(ratios):.3f}, "
                      f"standard error {error:.3f}")  # fmt: skip
            for pair in range(0 if args.within else args.pairs):
                order = (None, browser) if pair % 2 == 0 else (browser, None)
                first, second = (rate(served, words, viewer) for viewer in order)
                alone, watched = (first, second) if pair % 2 == 0 else (second, first)
                ratios.append(watched / alone)
                print(f"alone {alone:.2f} steps/s, watched {watched:.2f}: {watched / alone:.3f}", flush=True)
        finally:
            browser.close()
            served.process.terminate()
            served.process.wait(30)
    print(f"watched over alone: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
