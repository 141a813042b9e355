"""Time from a keystroke in the form to the new memory bar, in Chromium, with and without a training run.

    python -m benchmarks.keystroke HOME MODEL DATASET [--edits 40]

Needs a home with the model and the dataset and without an unfinished run; the run it starts is cancelled at the end.
The time is taken in the page: from the input event of the field r to the change of the estimate's markup.
"""

import argparse
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from studio.recipe import Recipe
from studio.services.core.keeper import Keeper
from studio.services.runs import runs
from studio.settings import Settings
from tests.browser import FLAGS, ensure
from tests.e2e.conftest import serve

# One edit at a time: the next starts when the bar of the previous one is drawn.
MEASURE = """
async (edits) => {
  const field = document.querySelector('#field-r input');
  const shown = document.querySelector('#estimate');
  const times = [];
  for (let edit = 0; edit < edits; edit++) {
    const drawn = new Promise((done) => {
      const watch = new MutationObserver(() => requestAnimationFrame(() => { watch.disconnect(); done(); }));
      watch.observe(shown, { childList: true, subtree: true, characterData: true, attributes: true });
    });
    const began = performance.now();
    field.value = String(8 + 4 * (edit % 15));
    field.dispatchEvent(new Event('input', { bubbles: true }));
    await drawn;
    times.push(performance.now() - began);
    await new Promise((done) => setTimeout(done, 150));
  }
  return times;
}
"""


def measure(page: Page, url: str, edits: int) -> str:
    """Return median, 95th percentile and slowest of the edits as text."""
    page.goto(f"{url}/?tab=train")
    page.locator("#estimate .legend").wait_for()
    page.wait_for_timeout(1500)
    times = sorted(page.evaluate(MEASURE, edits))
    p95 = times[int(0.95 * len(times))]
    return f"median {times[len(times) // 2]:.0f} ms, 95th percentile {p95:.0f} ms, slowest {times[-1]:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keystroke")
    parser.add_argument("home", type=Path)
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--edits", type=int, default=40)
    args = parser.parse_args()
    served = serve(args.home)
    try:
        with sync_playwright() as playwright, Keeper(Settings.from_env(home=args.home)) as reader:
            page = playwright.chromium.launch(executable_path=ensure(), args=FLAGS).new_page()
            print("nothing trains:", measure(page, served.url, args.edits), flush=True)
            recipe = Recipe().with_values({"model": args.model, "dataset": args.dataset, "max_steps": 100_000})
            run = runs.start(reader, recipe)
            while runs.get(reader, run.id).step < 2:
                time.sleep(1)
            print("a run trains:", measure(page, served.url, args.edits), flush=True)
            reader.run_dir(run.id).ask("cancel")
    finally:
        served.process.terminate()
        served.process.wait(60)


if __name__ == "__main__":
    main()
