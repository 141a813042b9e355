"""Measure what an open page costs: CPU seconds per minute of each Chromium process and of the studio.

    python -m benchmarks.watched [--tab runs ...] [--seconds 30] [--every 0.3] [--quiet] [--nobody]

Serves a studio with a simulated training: nothing is computed, but the run's journal gets a point every `--every`
seconds and its heartbeat moves, as with a trainer. Then a headless Chromium opens one tab of the page after the other.
CPU seconds hardly depend on the machine's other work, unlike the rates of `benchmarks.watching`. `--quiet`: no run
trains. `--nobody`: the studio without a page. For the page it also prints what its main thread did, its requests, and
how late a point was shown.
"""

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import Browser, CDPSession, sync_playwright

from studio.rundir import Beat, Journal
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.services.models import models
from studio.settings import Settings
from tests.browser import FLAGS, ensure
from tests.conftest import little_rows, write_jsonl
from tests.e2e.conftest import Served, serve
from tests.e2e.test_curves import alive, make_run, metric, overfitted, wiggle
from tests.tiny import tiny_model

TABS = ("runs", "data", "train", "compare", "export")
PARTS = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
COUNTS = ("RecalcStyleCount", "LayoutCount")
WHEN = """() => {
  const seen = window.seenSteps = new Map(), place = document.querySelector('.curve-read');
  const look = () => {
    const step = Number(/step ([\\d,]+)/.exec(place.textContent)?.[1].replaceAll(',', ''));
    if (step && !seen.has(step)) seen.set(step, Date.now() / 1000);
  };
  new MutationObserver(look).observe(place, {childList: true, characterData: true, subtree: true});
}"""
RUNNING = """document.getAnimations().filter((one) => one.playState === 'running')
  .map((one) => one.animationName ?? one.transitionProperty)"""


class Trainer:
    """A run whose journal gets a point every `every` seconds, with an evaluation at every fiftieth."""

    def __init__(self, home: Path, every: float) -> None:
        self.run, self.every = make_run(home, "live", 2e-4, time.time()), every
        self.times: dict[int, float] = {}
        self.over = threading.Event()
        words = [sys.executable, "-c", "import time; time.sleep(36000)", "--nonce", "n1"]
        self.process = subprocess.Popen(words)
        alive(self.run, self.process.pid)
        self.journal = Journal(self.run.events)
        self.journal.write("state", state="running")
        self.journal.write("plan", total_steps=100_000, device="CPU", examples=1000)
        for step in range(1, 301):
            self.point(step)
        Beat(time.time(), time.time(), 300).write(self.run)
        self.thread = threading.Thread(target=self.work, daemon=True)

    def point(self, step: int) -> None:
        metric(self.journal, step, 3 / math.sqrt(step) + wiggle(step), 2e-4)
        self.times[step] = time.time()
        if step % 50 == 0:
            self.journal.write("eval", step=step, epoch=step / 50, eval_loss=3 / math.sqrt(step) + 0.1)

    def work(self) -> None:
        step, beaten = 300, 0.0
        while not self.over.wait(self.every):
            step += 1
            self.point(step)
            if time.monotonic() - beaten > 2:
                beaten = time.monotonic()
                Beat(time.time(), time.time(), step).write(self.run)

    def end(self) -> None:
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()
        self.process.kill()
        self.process.wait()


def used(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def kind(process: psutil.Process) -> str:
    """Return the type of a Chromium process."""
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        types = [word.partition("=")[2] for word in command if word.startswith(("--type=", "--utility-sub-type="))]
        return " ".join(types).replace("utility ", "") or "browser"
    return "gone"


def browser_processes() -> list[psutil.Process]:
    """Return the Chromium processes among this process's descendants."""
    return [process for process in psutil.Process().children(True) if "chrom" in process.name()]


def figures(client: CDPSession) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in client.send("Performance.getMetrics")["metrics"]}


def watch(served: Served, browser: Browser | None, tab: str, seconds: float, trainer: Trainer | None) -> None:
    studio = psutil.Process(served.process.pid)
    page, client, requests = None, None, Counter()
    if browser is not None:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.on("request", lambda request: requests.update([urlsplit(request.url).path]))
        page.goto(f"{served.url}/?tab={tab}")
        page.wait_for_selector("#tabs")
        page.wait_for_timeout(8000)  # opening the page is not part of the measurement
        if tab == "runs" and trainer:
            page.wait_for_selector(".curves canvas")
            page.evaluate(WHEN)
        client = page.context.new_cdp_session(page)
        client.send("Performance.enable", {"timeDomain": "threadTicks"})
        requests.clear()
    processes = browser_processes() if browser else []
    before, studio_before = {process.pid: used(process) for process in processes}, used(studio)
    before_page = figures(client) if client else {}
    start = time.monotonic()
    if page:
        page.wait_for_timeout(1000 * seconds)
    else:
        time.sleep(seconds)
    minute = 60 / (time.monotonic() - start)
    shares = Counter()
    for process in processes:
        shares[kind(process)] += (used(process) - before[process.pid]) * minute
    own = (used(studio) - studio_before) * minute
    parts = ", ".join(f"{name} {value:.2f}" for name, value in shares.most_common() if value >= 0.05)
    total = sum(shares.values())
    whole = f"together {own + total:.2f} s/min"
    print(f"{tab if page else 'nobody'}: studio {own:.2f}, chromium {total:.2f} ({parts}); {whole}")
    if page and client:
        after = figures(client)
        print(
            "   page:", ", ".join(f"{name} {(after[name] - before_page[name]) * minute:.2f}" for name in PARTS + COUNTS)
        )
        print("   asked/min:", ", ".join(f"{path} {count * minute:.0f}" for path, count in requests.most_common(8)))
        running = page.evaluate(RUNNING)
        print("   animations:", running)
        if tab == "runs" and trainer:
            seen = dict(page.evaluate("[...window.seenSteps]"))
            delays = sorted(at - trainer.times[int(step)] for step, at in seen.items() if int(step) in trainer.times)
            if delays:
                print(
                    f"   newest point late: median {statistics.median(delays):.2f} s, "
                    f"most {delays[-1]:.2f} s ({len(delays)})"
                )
        page.close()
    sys.stdout.flush()


@contextlib.contextmanager
def house(folder: Path, training: bool, every: float) -> Iterator[tuple[Served, Trainer | None]]:
    home = folder / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(tiny_model(folder / "tiny")), lambda *_: None)
        datasets.add(studio, write_jsonl(folder / "little.jsonl", little_rows()))
    for number in range(5):
        overfitted(home, f"past-{number}")
    trainer = Trainer(home, every) if training else None
    served = serve(home)
    try:
        if trainer:
            trainer.thread.start()
        yield served, trainer
    finally:
        served.process.terminate()
        served.process.wait(30)
        if trainer:
            trainer.end()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watched")
    parser.add_argument("--tab", nargs="+", choices=TABS, default=list(TABS))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--every", type=float, default=0.3)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--nobody", action="store_true")
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; CPU seconds a minute")
    with tempfile.TemporaryDirectory() as name, house(Path(name), not args.quiet, args.every) as (served, trainer):
        if args.nobody:
            time.sleep(5)
            watch(served, None, "", args.seconds, trainer)
            return
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=ensure(), args=FLAGS)
            for tab in args.tab:
                watch(served, browser, tab, args.seconds, trainer)
            browser.close()


if __name__ == "__main__":
    main()
