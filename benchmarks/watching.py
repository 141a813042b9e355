"""What a browser that watches costs a training: the same run alone and watched, alternated.

    python -m benchmarks.watching [--pairs 5] [--steps 300] [--model FOLDER] [--rows FILE] [--set dtype=bfloat16 ...]

Serves a studio with the tiny model of the tests (or the model in FOLDER) and little sums (or the questions and answers
of FILE), and trains the same recipe again and again: two rows a step in float32, unless other fields are set. Every
other time a headless Chromium has the run's page open, with its curves following. The rate is of the steps behind the
twentieth, by the times in the journal, and of those from ten seconds behind the first curve that is drawn: what opening
a page costs, and cleaning up after it, is another matter.
The browser shares the machine's processors with the training, which a person's browser does too.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from studio.rundir import Exit, RunDir, read_events
from studio.services import datasets, models
from studio.services.checks import Options
from studio.services.studio import Studio
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
    """A home with a model and a dataset; the words that train the one on the other."""
    home = folder / "home"
    rows: list[dict[str, object]] = [{"instruction": f"{n} + {n} = ?", "output": str(2 * n)} for n in range(200)]
    with Studio(Settings(home=home, offline=True)) as studio:
        known = models.add(studio, str(model or tiny_model(folder / "tiny")), lambda *_: None)
        options = Options(mapping=MAPPING if file else {})
        added = datasets.add(studio, file or write_jsonl(folder / "sums.jsonl", rows), options=options)
    return home, ["--model", known.id, "--dataset", added.name]


def rate(served: Served, words: list[str], browser: Browser | None) -> float:
    """Steps a second of one run, watched if there is a browser."""
    told = served.cli("train", *words)
    run = RunDir(served.home / "runs" / str(told["id"]))
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Training alone and watched.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    asked = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home, words = home_with(Path(folder), asked.model, asked.rows)
        for one in (f"max_steps={asked.steps}", *USUAL, *asked.set):
            words += ["--set", one]
        served = serve(home)
        browser = playwright.chromium.launch(executable_path=ensure(), args=FLAGS)
        ratios = []
        try:
            for pair in range(asked.pairs):
                order = (None, browser) if pair % 2 == 0 else (browser, None)
                first, second = (rate(served, words, one) for one in order)
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
