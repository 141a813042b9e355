"""Curves in a real browser: they follow a run, keep the zoom, overlay runs, say what they show, come as files."""

import csv
import math
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from studio.recipe import Recipe
from studio.rundir import Exit, Identity, Journal, RunDir, boot_id, process_started, write_json
from tests.e2e.conftest import Served

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]


def make_run(home: Path, name: str, rate: float, created: float = 1000.0) -> RunDir:
    """A run directory as another machine may have left it."""
    run = RunDir(home / "runs" / name)
    (run.path / "control").mkdir(parents=True)
    values = {"name": name, "dataset": "little", "learning_rate": rate}
    run.recipe.write_text(Recipe().with_values(values).to_yaml())
    write_json(run.about, {"name": name, "owner": "local", "created": created})
    write_json(run.dataset, {"id": "d" * 64, "name": "little"})
    return run


def metric(journal: Journal, step: int, loss: float, rate: float) -> None:
    journal.write(
        "metric", step=step, epoch=step / 50, loss=loss, learning_rate=rate * (1 - step / 400), grad_norm=1 + loss / 3,
        tokens=step * 512, tokens_per_s=900 + 50 * math.sin(step), step_seconds=0.55 + 0.02 * math.cos(step),
        memory=2**30 + step * 2**16, token_accuracy=1 - loss / 4,
    )  # fmt: skip


def wiggle(step: int) -> float:
    return 0.06 * math.sin(step * 12.9898) * math.cos(step * 78.233)


def overfitted(home: Path, name: str = "overfits", steps: int = 300) -> RunDir:
    run = make_run(home, name, 2e-4)
    with Journal(run.events) as journal:
        journal.write("state", state="running")
        journal.write("plan", total_steps=steps, device="CPU")
        for step in range(1, steps + 1):
            metric(journal, step, 2.6 * math.exp(-step / 90) + 0.15 + wiggle(step), 2e-4)
            if step % 20 == 0:
                journal.write("eval", step=step, epoch=step / 50, eval_loss=1.2 + abs(step - 120) / 300)
            if step % 60 == 0:
                journal.write("checkpoint", step=step, path=f"checkpoints/step-{step}")
                (run.checkpoints / f"step-{step}").mkdir(parents=True)
        journal.write("note", level="warning", step=150, text="Step 150: a <b>note</b>.")
    Exit("completed", "It ended.").write(run)
    return run


def alive(run: RunDir, pid: int) -> None:
    """A true identity for a process that lives, so that the run is taken for running."""
    started = process_started(pid)
    assert started is not None
    Identity(pid, started, boot_id(), "n1").write(run)
    write_json(run.claim, {"nonce": "n1", "time": time.time(), "boot_id": boot_id()})


def zoomed(page: Page, start: float, end: float) -> list[float]:
    """Drag over a share of the loss curve; the range that is shown then."""
    box = page.locator("#curves .curve-main .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * start, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, box["y"] + 90, steps=6)
    page.mouse.up()
    return shown(page)


def shown(page: Page) -> list[float]:
    return [float(value) for value in page.locator("#curves .curves").get_attribute("data-range").split()]  # type: ignore[union-attr]


COUNT_PAINTED = """() => {
  window.painted = 0;
  const own = CanvasRenderingContext2D.prototype.clearRect;
  CanvasRenderingContext2D.prototype.clearRect = function (...box) {
    window.painted += 1;
    return own.apply(this, box);
  };
}"""

PAINTED_ALL = """() => {
  const all = window.painted > 0 && window.painted === window.before;
  window.before = window.painted;
  return all;
}"""


def test_new_points_appear_and_zoom_and_hover_stay(page: Page, little_home: Path, start: Start) -> None:
    import subprocess
    import sys

    run = make_run(little_home, "live", 2e-4)
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--nonce", "n1"])
    try:
        alive(run, worker.pid)
        with Journal(run.events) as journal:
            journal.write("state", state="running")
            journal.write("plan", total_steps=400, device="CPU")
            for step in range(1, 101):
                metric(journal, step, 3 / math.sqrt(step) + wiggle(step), 2e-4)
            page.goto(f"{start(little_home).url}/?run=live")
            read = page.locator("#curves .curve-read")
            expect(read).to_contain_text("step 100")
            for step in range(101, 106):
                metric(journal, step, 0.25, 2e-4)
                expect(read).to_contain_text(f"step {step}")

            # What the verdict rests on stays open while it changes.
            evidence = page.locator("#run-verdict details")
            evidence.locator("summary").click()
            before = evidence.inner_text()
            metric(journal, 106, 0.25, 2e-4)
            expect(evidence).not_to_have_text(before, use_inner_text=True)
            expect(evidence).to_have_attribute("open", "")

            page.evaluate(COUNT_PAINTED)
            with page.expect_response(lambda answer: "/curves?" in answer.url and "low=" in answer.url):
                low, high = zoomed(page, 0.3, 0.6)
            assert 20 < low < high < 80
            page.locator("#curves .curve-main .u-over").hover(position={"x": 200, "y": 50})
            under = read.inner_text()
            page.wait_for_function(PAINTED_ALL, polling=1000)
            page.evaluate("window.painted = 0")
            metric(journal, 107, 0.25, 2e-4)
            journal.write("checkpoint", step=107, path="checkpoints/step-107")
            # The run's own figures tell that the point has come; the curves stay as they were.
            expect(page.locator("#run-head")).to_contain_text("107")
            page.wait_for_timeout(2500)
            assert shown(page) == [low, high] and read.inner_text() == under
            assert page.evaluate("window.painted") == 0  # nothing new is in sight

            # A resumed run does again what came after its checkpoint.
            page.locator("#curves .curve-reset").click()
            page.mouse.move(5, 5)
            expect(read).to_contain_text("step 107")
            assert page.evaluate("window.painted") > 0
            journal.write("resumed", step=100)
            metric(journal, 101, 0.5, 2e-4)
            expect(read).to_contain_text("step 101 ")
            expect(page.locator("#curves .mark-resumed")).to_have_attribute("title", re.compile("Step 100: resumed"))
    finally:
        worker.kill()
        worker.wait()


def test_columns_are_merged_as_the_chart_library_joins_them(page: Page, shared: Served) -> None:
    page.goto(f"{shared.url}/?tab=runs")
    page.wait_for_function("Boolean(window.uPlot)")
    wrong = page.evaluate("""async () => {
      const { Aligned } = await import("/static/curves-maths.js");
      const same = (kept, lines) => JSON.stringify(kept.of(lines)) === JSON.stringify(uPlot.join(lines));
      const line = (count, by) => {
        const x = Array.from({length: count}, (_, i) => by * i + (Math.random() < 0.3 ? 0 : 1));
        x.sort((a, b) => a - b);
        return [[...new Set(x)], [...new Set(x)].map((v) => (v % 7 ? v / 3 : null))];
      };
      for (let turn = 0; turn < 200; turn++) {
        const lines = [1, 1, 5, 10, 3].slice(0, 1 + turn % 5).map((by) => line(Math.floor(40 * Math.random()), by));
        lines.push(lines[0]);
        const kept = new Aligned((v) => v);
        if (!same(kept, lines)) return lines;
        // What comes later is added, also at an x that another line has already, or before the end of the longest.
        for (let more = 0; more < 3; more++) {
          for (const [x, y] of lines.slice(0, -1)) {
            const by = 1 + Math.floor(3 * Math.random());
            x.push((x.at(-1) ?? 0) + by);
            y.push(by);
          }
          if (!same(kept, lines)) return ["grown", lines];
        }
        lines[0] = [[1, 2], [3, 4]]; // asked for anew
        if (!same(kept, lines)) return ["anew", lines];
      }
      const back = [[[1, 3, 2], [4, 5, 6]], [[1, 2], [7, 8]]]; // a clock that was set back
      if (!same(new Aligned((v) => v), back)) return back;
      const log = new Aligned((v) => (v > 0 ? v : null)).of([[[1, 2], [0, 3]]]);
      return JSON.stringify(log) === "[[1,2],[null,3]]" ? null : log;
    }""")
    assert wrong is None


def test_a_second_run_beside_the_first_and_what_differs(page: Page, little_home: Path, start: Start) -> None:
    overfitted(little_home)
    other = make_run(little_home, "steady", 1e-4, created=2000.0)
    with Journal(other.events) as journal:
        journal.write("state", state="running")
        journal.write("plan", total_steps=200, device="CPU")
        for step in range(1, 201):
            metric(journal, step, 1.5 * math.exp(-step / 120) + 0.6 + wiggle(step), 1e-4)
    Exit("completed", "It ended.").write(other)
    page.goto(f"{start(little_home).url}/?run=overfits")

    verdict = page.locator("#run-verdict")
    expect(verdict).to_contain_text("Overfitting since step 140")
    expect(verdict).to_contain_text("Best of 15 evaluations: 1.2 at step 120; its checkpoint is kept.")
    verdict.locator("summary").click()
    expect(verdict).to_contain_text("all 9 evaluations after the best are worse")

    expect(page.locator("#curves .curve-runs button")).to_have_count(1)
    expect(page.locator("#differ table")).to_have_count(0)
    page.get_by_role("checkbox", name="Also draw the curves of steady").check()
    expect(page.locator("#curves .curve-runs button")).to_have_count(2)
    table = page.locator("#differ table")
    expect(table).to_contain_text("Learning rate")
    expect(table).to_contain_text("0.0002")
    expect(table).not_to_contain_text("lora_alpha")
    expect(table.locator("tbody tr").first).to_contain_text("overfits")
    expect(table.locator("tbody tr").nth(1)).to_contain_text("−0.0001")
    table.get_by_role("button", name="steady as the baseline").click()
    expect(table.locator("tbody tr").first).to_contain_text("steady")
    table.get_by_role("button", name="Loss").click()
    expect(table.locator("th[aria-sort=ascending]")).to_contain_text("Loss")

    # The legend takes a line away and gives it back; the axis changes for both.
    second = page.locator("#curves .curve-runs button", has_text="steady")
    second.click()
    expect(second).to_have_attribute("aria-pressed", "false")
    second.click()
    page.locator("#curves .curve-x").select_option("tokens")
    expect(page.locator("#curves .curve-read")).to_contain_text("tokens 153,600")
    page.get_by_role("button", name="Log y").click()
    page.locator("#curves .curve-main").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#curves .curve-read")).to_contain_text("tokens 512")
    page.keyboard.press("+")
    assert shown(page)[1] < 153_600
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert shown(page)[1] == 153_600

    # On a logarithmic axis the first step is its edge; its middle half is half of the magnitudes.
    with page.expect_response(lambda answer: "log=true" in answer.url):
        page.get_by_role("button", name="Log x").click()
    expect(page.locator("#curves .curves")).to_have_attribute("data-range", "512 153600")
    page.locator("#curves .curve-main").focus()
    page.keyboard.press("+")
    low, high = shown(page)
    assert 2_000 < low < 2_300 and 35_000 < high < 39_000
    page.keyboard.press("Escape")
    expect(page.locator("#curves .curves")).to_have_attribute("data-range", "512 153600")


def test_the_figure_and_the_points_as_files(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    overfitted(little_home)
    page.goto(f"{start(little_home).url}/?run=overfits")
    expect(page.locator("#curves .curve-read")).to_contain_text("step 300")
    expect(page.locator("#curves .mark-note")).to_have_attribute("title", re.compile("a <b>note</b>"))

    with page.expect_download() as waiting:
        page.locator("#curves [data-out=png]").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    picture = path.read_bytes()
    assert path.name == "overfits.png" and picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20])[0] == 2400 and len(picture) > 30_000

    with page.expect_download() as waiting:
        page.locator("#curves [data-out=svg]").click()
    waiting.value.save_as(tmp_path / "figure.svg")
    figure = (tmp_path / "figure.svg").read_text()
    assert figure.startswith("<svg") and "overfits" in figure and figure.count("<path") > 20 and "NaN" not in figure

    with page.expect_download() as waiting:
        page.locator("#curves [data-out=csv]").click()
    waiting.value.save_as(tmp_path / "points.csv")
    rows = list(csv.DictReader((tmp_path / "points.csv").open(newline="")))
    metrics = [row for row in rows if row["kind"] == "metric"]
    assert len(rows) == 315 and [int(row["step"]) for row in metrics] == list(range(1, 301))
    assert [float(row["loss"]) for row in metrics] == [
        2.6 * math.exp(-step / 90) + 0.15 + wiggle(step) for step in range(1, 301)
    ]


@pytest.mark.parametrize("width", [1440, 390])
def test_the_curves_keep_inside_the_page(page: Page, little_home: Path, start: Start, width: int) -> None:
    overfitted(little_home)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{start(little_home).url}/?run=overfits")
    expect(page.locator("#curves .curve-grid figure:visible")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
