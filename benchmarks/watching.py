"""What a browser that watches costs a training: the same run alone and watched, alternated.

    python -m benchmarks.watching [--pairs 5] [--steps 300] [--model FOLDER]

Serves a studio with the tiny model of the tests (or the model in FOLDER), and trains the same recipe again and again;
every other time a headless Chromium has the run's page open, with its curves following. The rate is of the steps behind
the twentieth, by the times in the journal, and of those from ten seconds behind the first curve that is drawn: what
opening a page costs, and cleaning up after it, is another matter.
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
from studio.services.studio import Studio
from studio.settings import Settings
from tests.browser import FLAGS, ensure
from tests.conftest import write_jsonl
from tests.e2e.conftest import Served, serve
from tests.tiny import tiny_model

SKIPPED = 20
SETTLED = 10  # seconds


def home_with(folder: Path, model: Path | None) -> tuple[Path, str]:
    """A home with a model and a dataset; the model's id."""
    home = folder / "home"
    rows: list[dict[str, object]] = [{"instruction": f"{n} + {n} = ?", "output": str(2 * n)} for n in range(200)]
    with Studio(Settings(home=home, offline=True)) as studio:
        known = models.add(studio, str(model or tiny_model(folder / "tiny")), lambda *_: None)
        datasets.add(studio, write_jsonl(folder / "sums.jsonl", rows))
    return home, known.id


def rate(served: Served, model: str, steps: int, browser: Browser | None) -> float:
    """Steps a second of one run, watched if there is a browser."""
    sets = {"max_steps": steps, "dtype": "float32", "held_out": 0.0, "per_device_train_batch_size": 2}
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    told = served.cli("train", "--model", model, "--dataset", "sums", *words)
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
    asked = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home, model = home_with(Path(folder), asked.model)
        served = serve(home)
        browser = playwright.chromium.launch(executable_path=ensure(), args=FLAGS)
        ratios = []
        try:
            for pair in range(asked.pairs):
                order = (None, browser) if pair % 2 == 0 else (browser, None)
                first, second = (rate(served, model, asked.steps, one) for one in order)
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
