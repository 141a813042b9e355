"""A real training watched from its start to its end: what the curves show is what the journal says, and stays put."""

import csv
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor
from playwright.sync_api import Locator, Page, expect

from studio.rundir import Exit, Journal, RunDir, read_events
from studio.services.curves.diagnosis import Curve, judge
from tests.e2e.conftest import Served
from tests.e2e.test_curves import alive, make_run, metric, shown, zoomed
from tests.unit.services.curves import test_curves as events_of

pytestmark = pytest.mark.browser
LONG = 900_000  # ms; a busy machine is no failure
STEPS = 150
# What the large figure shows of a run's colour: how many pixels are nearly it, and how far right they reach (0 to 1).
PAINTED = """(name) => {
  const canvas = document.querySelector('#curves .curve-main canvas'), one = new OffscreenCanvas(1, 1).getContext('2d');
  one.fillStyle = getComputedStyle(document.body).getPropertyValue(name).trim();
  one.fillRect(0, 0, 1, 1);
  const [r, g, b] = one.getImageData(0, 0, 1, 1).data;
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let count = 0, right = 0;
  for (let at = 0; at < data.length; at += 4) {
    const off = Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b);
    if (data[at + 3] <= 200 || off >= 24) continue;
    count += 1;
    right = Math.max(right, ((at / 4) % canvas.width) / canvas.width);
  }
  return { count, right };
}"""


def train(served: Served, name: str, *words: str, **values: object) -> str:
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return str(served.cli("train", "--model", "tiny", "--dataset", "little", "--name", name, *sets, *words)["id"])


def points(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event.payload | {"time": event.time} for event in read_events(run.events).events if event.kind == kind]


def step(read: Locator) -> int:
    """The newest step that the curves tell of."""
    found = re.search(r"step ([\d,]+)", read.inner_text())
    return int(found[1].replace(",", "")) if found else 0


def more(page: Page, run: RunDir, count: int = 4) -> None:
    """Wait until the page has so many points more than there are now, by its own looks for news."""
    newest = points(run, "metric")[-1]["step"]
    assert newest + count <= STEPS, "the run was over before it was looked at"
    # The head of the run is refreshed by the same answer that brings its points.
    page.wait_for_function(
        "(least) => Number(document.querySelector('#run-head .facts').textContent.match(/([\\d,]+)\\s+of 150/)?.[1]"
        ".replace(',', '') ?? 0) >= least",
        arg=newest + count, timeout=LONG,
    )  # fmt: skip


def test_a_run_that_ended_before_ones_eyes_is_drawn_as_it_is_asked_for(
    page: Page, little_home: Path, start: Callable[[Path], Served]
) -> None:
    run = make_run(little_home, "ends", 2e-4)
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--nonce", "n1"])
    try:
        alive(run, worker.pid)
        with Journal(run.events) as journal:
            journal.write("state", state="running")
            journal.write("plan", total_steps=100, device="CPU")
            for one in range(1, 101):
                metric(journal, one, 3 / one**0.5, 2e-4)
        page.goto(f"{start(little_home).url}/?run=ends")
        expect(page.locator("#curves .curve-read")).to_contain_text("step 100", timeout=LONG)
        Exit("completed", "It ended.").write(run)
    finally:
        worker.kill()
        worker.wait()
    expect(page.locator("#run-head .state")).to_have_text("completed", timeout=LONG)
    expect(page.locator("#run-verdict .said-of")).to_be_visible()
    page.wait_for_timeout(3000)  # the curves have been told, too, that it lives no more
    page.locator("#curves .curve-x").select_option("tokens")
    expect(page.locator("#curves .curve-read")).to_contain_text("tokens 51,200", timeout=LONG)
    page.wait_for_function(f"({PAINTED})('--run-1').right > 0.9")


@pytest.mark.timeout(2700)  # two real trainings, on machines that may do much else
def test_a_run_is_watched_from_its_start_to_its_end(
    page: Page, little_home: Path, start: Callable[[Path], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several threads mostly wait for each other on so small a model
    served = start(little_home)
    same = {"dtype": "float32", "held_out": 0.25, "learning_rate": 0.003, "per_device_train_batch_size": 2}
    other = train(served, "earlier", "--follow", max_steps=40, eval_steps=10, **same)
    run = RunDir(
        little_home / "runs" / train(
            served, "watched", max_steps=STEPS, eval_steps=25, save_steps=50, gradient_accumulation_steps=8,
            sample_prompts="Add 1 and 2.", sample_tokens=4, **same,
        )
    )  # fmt: skip
    page.goto(f"{served.url}/?run={run.id}")
    read = page.locator("#curves .curve-read")
    expect(read).to_contain_text("step", timeout=LONG)
    early = step(read)
    more(page, run)
    expect(read).not_to_contain_text(re.compile(rf"step {early}\D"))
    assert step(read) > early

    # A stretch that was chosen stays, whatever comes behind it.
    chosen = zoomed(page, 0.2, 0.6)
    assert 0 < chosen[0] < chosen[1] < STEPS
    more(page, run)
    assert shown(page) == chosen

    # So does what is drawn, and what is not.
    page.get_by_role("checkbox", name="Also draw the curves of earlier").check()
    lines = page.locator("#curves .curve-runs button")
    expect(lines).to_have_count(2)
    page.wait_for_function(f"({PAINTED})('--run-2').count > 20")
    for line in (lines.filter(has_text="earlier"), page.locator("#curves [data-line=eval]")):
        line.click()
        expect(line).to_have_attribute("aria-pressed", "false")
    more(page, run)
    assert shown(page) == chosen
    for line in (lines.filter(has_text="earlier"), page.locator("#curves [data-line=eval]")):
        expect(line).to_have_attribute("aria-pressed", "false")
    assert page.evaluate(PAINTED, "--run-2")["count"] == 0 and page.evaluate(PAINTED, "--run-1")["count"] > 20

    # It ends by itself: all of it is there, and one sentence says what it shows.
    expect(page.locator("#run-head .state")).to_have_text("completed", timeout=LONG)
    metrics, evals = points(run, "metric"), points(run, "eval")
    assert [one["step"] for one in metrics] == list(range(1, STEPS + 1))
    assert shown(page) == chosen
    page.locator("#curves .curve-reset").click()
    for line in (lines.filter(has_text="earlier"), page.locator("#curves [data-line=eval]")):
        line.click()
    expect(read).to_contain_text(f"step {STEPS}")
    expect(read).to_contain_text(f"loss {metrics[-1]['loss']:.4f}")
    expect(read).to_contain_text(f"evaluation {evals[-1]['eval_loss']:.4f}")
    steps, losses, rates = (np.array([one[name] for one in metrics]) for name in ("step", "loss", "learning_rate"))
    eval_steps, eval_losses = (np.array([one[name] for one in evals]) for name in ("step", "eval_loss"))
    said = judge(
        Curve(
            steps, losses, eval_steps, eval_losses, rates,
            checkpoints=tuple(sorted(int(path.name[5:]) for path in run.checkpoints.glob("step-*"))), over=True,
        )
    )  # fmt: skip
    expect(page.locator("#run-verdict .said-of")).to_have_attribute("data-verdict", said.kind)
    expect(page.locator("#run-verdict p")).to_have_text(said.words)
    for kind, mark in (("checkpoint", "checkpoint"), ("eval", "eval"), ("sample", "sample")):
        told = points(run, kind)
        assert told
        expect(page.locator(f"#curves .mark-{mark}")).to_have_count(len(told))

    the_points_as_csv(taken(page, "csv", tmp_path), metrics, evals)
    the_figure_as_picture(taken(page, "png", tmp_path), page)
    figure = ElementTree.parse(taken(page, "svg", tmp_path))
    texts = {node.text for node in figure.iter("{http://www.w3.org/2000/svg}text")}
    assert {"watched", "earlier", "Loss", "Learning rate", "Gradient norm"} <= texts
    with zipfile.ZipFile(taken(page, "zip", tmp_path)) as packed:
        packed.extractall(tmp_path)
    losses = events_of.read_events(tmp_path / "watched")["train/loss"]
    assert losses == [(one["step"], one["time"], float(np.float32(one["loss"]))) for one in metrics]
    assert RunDir(little_home / "runs" / other).exit.is_file()


def taken(page: Page, form: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator(f"#curves [data-out={form}]").click()
    path = folder / f"taken.{form}"
    waiting.value.save_as(path)
    return path


def the_points_as_csv(path: Path, metrics: list[dict[str, Any]], evals: list[dict[str, Any]]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for kind, told in (("metric", metrics), ("eval", evals)):
        found = [row for row in rows if row["kind"] == kind]
        assert len(found) == len(told)
        for row, one in zip(found, told, strict=True):
            one = one | {"token_accuracy": one.get("eval_token_accuracy", one.get("token_accuracy"))}
            for name in ("time", "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens",
                         "tokens_per_s", "step_seconds", "memory", "token_accuracy"):  # fmt: skip
                expected = one.get(name)
                assert row[name] == "" if expected is None else float(row[name]) == expected, (kind, name, row, one)
    assert len(rows) == len(metrics) + len(evals)


def the_figure_as_picture(path: Path, page: Page) -> None:
    """Both runs' lines are in the picture, below its head, each in its colour."""
    with Image.open(path) as image:
        image.load()
        wide, high = image.size
        pixels = np.asarray(image.convert("RGB")).astype(int)[100:]
    assert wide == 2400 and high > 1200
    for name in ("--run-1", "--run-2"):
        colour = page.evaluate("(name) => getComputedStyle(document.body).getPropertyValue(name).trim()", name)
        off = np.abs(pixels - np.array(ImageColor.getrgb(colour))).sum(axis=2)
        assert (off < 24).sum() > 500, (name, colour)
