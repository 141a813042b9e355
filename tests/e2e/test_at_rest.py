"""What a page does while nobody touches it: next to nothing, so that a training has the processors for itself."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, expect

from studio.rundir import Exit, Journal
from tests.e2e.conftest import Served
from tests.e2e.test_curves import alive, make_run, metric, overfitted

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]

COUNT_FRAMES = """
window.framesAsked = 0;
const own = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (callback) => { window.framesAsked += 1; return own(callback); };
"""
CALM = """() => {
  const few = window.framesAsked - (window.framesBefore ?? -1000) < 10;
  window.framesBefore = window.framesAsked;
  return few;
}"""
ENDLESS = """
document.getAnimations().filter((one) => one.playState === 'running' && one.effect.getTiming().iterations === Infinity)
  .map((one) => one.animationName ?? String(one.effect.target.className))
"""


def beats(page: Page, count: int) -> list[int]:
    """Wait for so many answers of the pulse; their statuses."""
    found = []
    for _ in range(count):
        with page.expect_response(lambda answer: urlsplit(answer.url).path == "/pulse") as seen:
            pass
        found.append(seen.value.status)
    return found


@pytest.mark.parametrize("tab", ["data", "train", "runs", "compare", "export"])
def test_a_page_at_rest_draws_nothing_and_asks_for_nothing_but_its_pulse(
    page: Page, little_home: Path, start: Start, tab: str
) -> None:
    overfitted(little_home)
    page.add_init_script(COUNT_FRAMES)
    asked: list[str] = []
    page.goto(f"{start(little_home).url}/?tab={tab}")
    expect(page.get_by_role("tab", name=tab.capitalize())).to_have_attribute("aria-selected", "true")
    expect(page.locator("#machine")).to_contain_text("of disk free")
    beats(page, 3)
    page.wait_for_function(CALM, polling=2000)
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    page.evaluate("window.framesAsked = 0")
    beats(page, 3)
    assert page.evaluate(ENDLESS) == []
    # Gradio's loading sign may go on for ever, slowed to a frame a second (static/early.js); unslowed it is 60.
    assert page.evaluate("window.framesAsked") < 30
    assert set(asked) - {"/runs.json"} == {"/pulse"}  # the list of runs is looked at every few seconds


def test_a_run_is_followed_and_its_end_told_without_gradio_in_between(
    page: Page, little_home: Path, start: Start
) -> None:
    run = make_run(little_home, "live", 2e-4)
    overfitted(little_home, "past")
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--nonce", "n1"])
    gradio: list[str] = []

    def note(request: Request) -> None:
        path = urlsplit(request.url).path
        if path.startswith("/gradio_api/") and "heartbeat" not in path:
            gradio.append(path)

    try:
        alive(run, worker.pid)
        with Journal(run.events) as journal:
            journal.write("state", state="running")
            journal.write("plan", total_steps=400, device="CPU")
            metric(journal, 1, 2.0, 2e-4)
            page.goto(f"{start(little_home).url}/?tab=runs&run=live")
            head, row, side = (
                page.locator("#run-head"),
                page.locator("#runs-table tr[data-id=live]"),
                page.locator("#now"),
            )
            expect(page.locator("#curves .curve-read")).to_contain_text("step 1")
            expect(row).to_contain_text("1/400")
            page.locator("button.label-wrap", has_text="Log").click()
            beats(page, 2)
            page.on("request", note)
            for step in range(2, 6):
                metric(journal, step, 2.0 / step, 2e-4)
                (run.path / "log.txt").write_text(f"line {step}\n")
                expect(head).to_contain_text(f"{step} of 400")
                expect(page.locator("#curves .curve-read")).to_contain_text(f"step {step}")
                expect(row).to_contain_text(f"{step}/400")
                expect(side).to_contain_text(f"step {step} of 400")
                expect(page.locator("#run-log")).to_contain_text(f"line {step}")
            assert gradio == [] and page.evaluate(ENDLESS) == []
        Exit("completed", "It ended.").write(run)
        worker.kill()
        worker.wait()
        expect(head.locator(".state")).to_have_text("completed")
        expect(row.locator(".state")).to_have_text("completed")
        expect(page.locator("#stop-run")).to_be_hidden()
        expect(side).to_contain_text("Nothing is running.")
        assert gradio  # what there is to press is Gradio's to change, once
    finally:
        worker.kill()
        worker.wait()


NOTIFICATIONS = """
window.told = [];
window.Notification = class {
  static permission = "default";
  static requestPermission() { Notification.permission = "granted"; return Promise.resolve("granted"); }
  constructor(title, { body }) { told.push([title, body]); }
};
"""
WATCH_BUTTON = """() => {
  window.gone = 0;
  const look = () => { if (!document.querySelector("#now [data-notify]")?.offsetParent) window.gone += 1; };
  const all = {subtree: true, childList: true, attributes: true, characterData: true};
  new MutationObserver(look).observe(document.querySelector("#now"), all);
}"""


def test_who_asks_for_it_is_told_once_by_the_browser_and_the_button_does_not_flicker(
    page: Page, little_home: Path, start: Start
) -> None:
    run = make_run(little_home, "live", 2e-4)
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--nonce", "n1"])
    try:
        alive(run, worker.pid)
        with Journal(run.events) as journal:
            journal.write("state", state="running")
            journal.write("plan", total_steps=400, device="CPU")
            metric(journal, 1, 2.0, 2e-4)
            page.add_init_script(NOTIFICATIONS)
            page.goto(f"{start(little_home).url}/?tab=runs&run=live")
            button, side = page.get_by_role("button", name="Tell me when a run ends"), page.locator("#now")
            expect(side).to_contain_text("step 1 of 400")
            expect(button).to_be_visible()
            page.evaluate(WATCH_BUTTON)
            for step in range(2, 5):
                metric(journal, step, 2.0 / step, 2e-4)
                expect(side).to_contain_text(f"step {step} of 400")
            assert page.evaluate("window.gone") == 0
            button.click()
            expect(button).to_be_hidden()
        Exit("completed", "It ended.").write(run)
        worker.kill()
        worker.wait()
        expect(side).to_contain_text("Nothing is running.")
        page.wait_for_function("window.told.length > 0")
        beats(page, 2)
        assert page.evaluate("window.told") == [["live: completed", "It ended."]]
    finally:
        worker.kill()
        worker.wait()


def test_another_run_is_opened_and_never_shown_with_what_belongs_to_the_first(
    page: Page, little_home: Path, start: Start
) -> None:
    overfitted(little_home, "one")
    overfitted(little_home, "two", steps=260)
    page.goto(f"{start(little_home).url}/?tab=runs&run=one")
    for name, steps in (("two", "260"), ("one", "300"), ("two", "260")):
        page.locator("#runs-table .link", has_text=name).click()
        expect(page.locator("#run-head h2")).to_have_text(name)
        beats(page, 2)
        expect(page.locator("#run-head h2")).to_have_text(name)
        expect(page.locator("#run-head")).to_contain_text(f"{steps} of {steps}")
        assert f"run={name}" in page.url
