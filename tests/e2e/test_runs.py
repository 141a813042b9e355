"""What can be done with runs on the page: wait in line, move, stop, resume, train longer, and read what happened."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Served

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]
LONG = 300_000  # a busy machine is no failure


def train(served: Served, name: str, **values: object) -> str:
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return str(served.cli("train", "--model", "tiny", "--dataset", "little", "--name", name, *sets)["id"])


def state(page: Page, word: str) -> None:
    expect(page.locator("#run-head .state")).to_have_text(word, timeout=LONG)


def test_runs_wait_in_line_stop_and_go_on(page: Page, little_home: Path, start: Start) -> None:
    served = start(little_home)
    first = train(served, "first", max_steps=4000, save_steps=0)
    train(served, "second", max_steps=3)
    third = train(served, "third", max_steps=3)
    page.goto(f"{served.url}/?run={third}")
    expect(page.locator("#run-head")).to_contain_text("1 ahead of it", timeout=LONG)
    expect(page.locator("#stop-run")).to_be_hidden()
    page.locator("#first-run").click()
    expect(page.locator("#run-head")).to_contain_text("It will start next.")
    expect(page.locator("#now li")).to_have_text(["third", "second"])

    # Stopped with a checkpoint, it makes way, and goes on from there when it is its turn again.
    page.locator("#runs-table .link", has_text="first").click()
    state(page, "running")
    expect(page.locator("#run-head .facts")).to_contain_text(re.compile(r"[1-9]\d* of 4,000"), timeout=LONG)
    page.locator("#stop-run").click()
    expect(page.locator("#runs-notice")).to_contain_text("It can be resumed")
    state(page, "stopped")
    page.get_by_role("button", name="History").click()
    expect(page.locator("#run-history")).to_contain_text("complete: every file verified")
    expect(page.locator("#run-history")).to_contain_text("predicted")
    page.locator("#resume-run").click()
    expect(page.locator("#resume-run")).to_be_hidden()
    expect(page.locator("#run-head .state")).to_have_text(re.compile("running|starting|queued"))
    state(page, "running")
    page.locator("#cancel-run").click()
    state(page, "stopped")
    assert (little_home / "runs" / first / "attempts" / "1" / "exit.json").is_file()

    # A finished run is trained longer.
    page.locator("#runs-table .link", has_text="second").click()
    state(page, "completed")
    expect(page.locator("#resume-run")).to_be_hidden()
    page.get_by_role("button", name="Train longer").click()
    page.locator("#longer-go").click()
    expect(page.locator("#runs-notice")).to_contain_text("Extend it by steps")
    page.locator("#longer-unit").get_by_label("steps").check()
    page.locator("#longer-more input").fill("2")
    page.locator("#longer-go").click()
    expect(page.locator("#run-head .facts")).to_contain_text("5 of 5", timeout=LONG)
    state(page, "completed")


def test_what_a_run_answers_while_it_trains_is_shown_by_step(page: Page, little_home: Path, start: Start) -> None:
    served = start(little_home)
    page.goto(f"{served.url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    page.locator("#advanced").get_by_role("button", name="Evaluation").click()
    page.locator("#field-sample_prompts textarea").fill("Add 1 and 2.\n<b>Who</b>?")
    page.locator("#field-sample_tokens input").first.fill("5")
    page.locator("#field-eval_steps input").first.fill("2")
    page.locator("#advanced").get_by_role("button", name="Schedule").click()
    page.locator("#field-max_steps input").first.fill("4")
    page.locator("#start-training").click()
    state(page, "completed")
    shown = page.locator("#run-samples")
    expect(shown.locator("h4")).to_have_text(["Add 1 and 2.", "<b>Who</b>?"])
    expect(shown.locator("section").first.locator("dt")).to_have_text(["step 4", "step 2"])
