"""Time the list of 500 runs in Chromium: from a key, a click or a star to the updated list, and the server's share.

    python -m benchmarks.run_list [--runs 500] [--times 30]

Creates a home with real run directories (recipe, about.json, a journal of 60 points, a checkpoint), serves it and
drives the Runs page. Times are taken in the page, from the event to the frame in which its result is visible. It also
prints the processor time of the page's main thread and of the studio's process: on a busy machine only that is
comparable.
"""

import argparse
import math
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from studio.recipe import Recipe
from studio.rundir import Exit, Journal, RunDir, write_json
from studio.services.core.keeper import Keeper
from studio.services.runs import run_list, trash
from studio.services.runs.run_list import Query
from studio.settings import Settings
from tests.browser import FLAGS, ensure
from tests.e2e.conftest import serve

WORDS = ("tickets", "poems", "gsm8k", "support-bot", "sql", "summaries")
MODELS = ("smollm2-135m-instruct", "qwen/qwen3-0.6b", "google/gemma-3-1b-it")
TAGS = ([], ["baseline"], ["lr-sweep", "night"], ["keep"])

# Run `act`, wait until `done` is true in a frame, and return the milliseconds.
MEASURE = """
async ([act, done]) => {
  const holds = new Function('return ' + done), begin = performance.now();
  new Function(act)();
  while (!holds()) {
    if (performance.now() - begin > 20000) throw new Error('never: ' + done);
    await new Promise(requestAnimationFrame);
  }
  return performance.now() - begin;
}
"""
ROWS = "document.querySelectorAll('#runs-table tbody tr')"
TYPE = "const at = document.querySelector('.run-search'); at.value = {0!r}; at.dispatchEvent(new Event('input'))"


def furnish(home: Path, count: int) -> None:
    """Write run directories as trainings leave them."""
    rng = random.Random(6)
    for number in range(count):
        run = RunDir(home / "runs" / f"26{number:04d}-120000-{number:06x}")
        (run.path / "control").mkdir(parents=True)
        name = f"{rng.choice(WORDS)}-{number}"
        run.recipe.write_text(Recipe().with_values({"name": name, "model": rng.choice(MODELS)}).to_yaml())
        write_json(run.dataset, {"id": "d" * 64, "name": rng.choice(("tickets", "poems-of-the-sea"))})
        about = {
            "name": name,
            "owner": "local",
            "created": time.time() - 3600 * (number + 1),
            "starred": number % 9 == 0,
        }
        write_json(run.about, about | {"tags": rng.choice(TAGS), "notes": "worth a second look" * (number % 5 == 0)})
        with Journal(run.events) as journal:
            journal.write("state", state="running")
            journal.write("plan", total_steps=60, device="CPU")
            for step in range(1, 61):
                loss = 2.5 * math.exp(-step / 20) + 0.1 * rng.random()
                journal.write("metric", step=step, loss=loss, learning_rate=1e-4, tokens_per_s=200.0, step_seconds=1.2)
            journal.write("eval", step=60, eval_loss=0.3 + rng.random())
        checkpoint = run.checkpoints / "step-60"
        checkpoint.mkdir(parents=True)
        (checkpoint / "adapter_model.safetensors").write_bytes(b"\0" * rng.randrange(200_000))
        state = rng.choice(("completed", "completed", "stopped", "failed"))
        Exit(state, "It ended.", time=about["created"] + 60 + number).write(run)


Took = tuple[float, float, float]  # milliseconds: on the clock, of the page's thread, of the studio's process


def words(times: Sequence[Took]) -> str:
    whole, *shares = (sorted(one) for one in zip(*times, strict=True))
    late = whole[min(len(whole) - 1, int(0.95 * len(whole)))]
    busy = " | ".join(f"{statistics.median(share):.0f}" for share in shares)
    return f"{statistics.median(whole):.0f} | {late:.0f} | {busy}"


def browse(page: Page, served: psutil.Process, times: int, count: int) -> None:
    """Measure every interaction, one at a time, with 50 rows shown and then with 100."""

    inside = page.context.new_cdp_session(page)
    inside.send("Performance.enable", {"timeDomain": "threadTicks"})

    def used() -> tuple[float, float]:
        metrics = {metric["name"]: metric["value"] for metric in inside.send("Performance.getMetrics")["metrics"]}
        taken = served.cpu_times()
        return 1000 * metrics["TaskDuration"], 1000 * (taken.user + taken.system)

    def measure(act: str, done: str) -> Took:
        before = used()
        took = page.evaluate(MEASURE, [act, done])
        after = used()
        page.wait_for_timeout(120)
        return took, after[0] - before[0], after[1] - before[1]

    def typing(at: int) -> Took:
        word = WORDS[at % len(WORDS)][:3]
        done = f"[...{ROWS}].length && [...{ROWS}].every((row) => row.textContent.includes({word!r}))"
        took = measure(TYPE.format(word), done)
        measure(TYPE.format(""), "document.querySelector('[data-act=clear]').hidden")
        return took

    def opening(at: int) -> Took:
        row = f"{ROWS}[{1 + at % 40}].querySelector('.link')"
        name = page.evaluate(f"{row}.textContent")
        return measure(f"{row}.click()", f"document.querySelector('#run-head h2')?.textContent === {name!r}")

    def sorting(at: int) -> Took:
        column = ("name", "loss", "disk", "state", "duration")[at % 5]
        head = f"document.querySelector('th[data-column={column}]')"
        return measure(f"{head}.querySelector('button').click()", f"{head}.hasAttribute('aria-sort')")

    def starring(at: int) -> Took:
        star = f"{ROWS}[{at % 40}].querySelector('.star')"
        label = page.evaluate(f"{star}.ariaLabel")
        before = page.evaluate(f"{star}.ariaPressed")
        stars = "[...document.querySelectorAll('#runs-table .star')]"
        done = f"{stars}.some((one) => one.ariaLabel === {label!r} && one.ariaPressed !== {before!r})"
        return measure(f"{star}.click()", done)

    def filtering(at: int) -> Took:
        value = ("completed", "failed", "stopped", "")[at % 4]
        select = "document.querySelector('[data-filter=state]')"
        act = f"const at = {select}; at.value = {value!r}; at.dispatchEvent(new Event('change', {{bubbles: true}}))"
        done = f"[...{ROWS}].every((row) => {value!r} === '' || row.querySelector('.state').textContent === {value!r})"
        counted = "document.querySelector('.run-count').textContent.includes(' of ')"
        return measure(act, f"{done} && {counted} === {str(bool(value)).lower()}")

    acts: list[tuple[str, Callable[[int], Took]]] = [
        ("typing into search, its 120 ms of waiting included", typing),
        ("a filter", filtering),
        ("sorting", sorting),
        ("a star", starring),
        ("opening a run", opening),
    ]
    for shown in (50, min(100, count)):
        while page.evaluate(f"{ROWS}.length") < shown:
            before = page.evaluate(f"{ROWS}.length")
            page.locator(".run-more").click()
            page.wait_for_function(f"{ROWS}.length > {before}")
        print(f"{shown} rows shown | median ms | 95th percentile | page's processor time | studio's processor time")
        # Search, filter and sorting go back to the first page, so they cost the same on a longer list.
        for what, act in acts if shown == 50 else acts[3:]:
            print(f"{what} | {words([act(at) for at in range(times)])}", flush=True)


def services(home: Path, times: int) -> None:
    """Time the service calls behind the list, without web server and browser, and one look of the keeper."""

    def timed(act: Callable[[], Any]) -> str:
        times_ms = []
        for _ in range(times):
            start = time.perf_counter()
            act()
            times_ms.append(1000 * (time.perf_counter() - start))
        return f"{statistics.median(times_ms):.1f} ms, slowest {max(times_ms):.1f}"

    keeper = Keeper(Settings(home=home, offline=True))
    with keeper as studio:
        print("a look of the keeper:", timed(studio.look))
        keeper.start()
        print("a page of 50:", timed(lambda: run_list.find(studio, Query())))
        print("a search:", timed(lambda: run_list.find(studio, Query(search="second tick", sort="disk"))))
        print("all:", timed(lambda: run_list.find(studio, Query(limit=5000))))
        print("the sidebar:", timed(lambda: run_list.current(studio)))
        print("the trash:", timed(lambda: trash.contents(studio)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_list")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--times", type=int, default=30)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        home = folder / "home"
        furnish(home, args.runs)
        start = time.perf_counter()
        with Keeper(Settings(home=home, offline=True)) as studio:
            print(f"{args.runs} runs ingested, once: {time.perf_counter() - start:.1f} s")
            start = time.perf_counter()
            run_list.find_every(studio, Query(sort="disk"))
            print(f"all sizes counted and listed: {time.perf_counter() - start:.2f} s")
        services(home, args.times)
        served = serve(home)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=ensure(), args=FLAGS)
                page = browser.new_page(viewport={"width": 1440, "height": 1000})
                page.goto(f"{served.url}/?tab=runs")
                page.locator("#run-head h2").wait_for()
                page.wait_for_function(f"{ROWS}.length === 50")
                page.wait_for_timeout(3000)
                browse(page, psutil.Process(served.process.pid), args.times, args.runs)
        finally:
            served.process.terminate()
            served.process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
