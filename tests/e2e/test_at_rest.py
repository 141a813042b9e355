"""What a page does while nobody touches it: next to nothing, so that a training has the processors for itself."""

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, Response, expect

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


def beats(pages: Page | Sequence[Page], count: int) -> None:
    """Wait until each page has had so many answers of the pulse."""
    together = [pages] if isinstance(pages, Page) else pages
    had = dict.fromkeys(together, 0)

    def note(page: Page, answer: Response) -> None:
        had[page] += urlsplit(answer.url).path == "/pulse"

    heard = {page: functools.partial(note, page) for page in together}
    for page, hear in heard.items():
        page.on("response", hear)
    while waiting := [page for page in together if had[page] < count]:
        waiting[0].wait_for_event("response")
    for page, hear in heard.items():
        page.remove_listener("response", hear)


def note_path(paths: list[str], request: Request) -> None:
    paths.append(urlsplit(request.url).path)


TABS = ("data", "train", "runs", "compare", "export")


def test_pages_at_rest_draw_nothing_and_ask_for_nothing_but_their_pulse(
    page: Page, little_home: Path, start: Start
) -> None:
    """One page for each tab, all of them open at once."""
    overfitted(little_home)
    url = start(little_home).url
    pages = {tab: page if tab == TABS[0] else page.context.new_page() for tab in TABS}
    asked: dict[str, list[str]] = {tab: [] for tab in TABS}
    for tab, one in pages.items():
        one.add_init_script(COUNT_FRAMES)
        one.goto(f"{url}/?tab={tab}")
        expect(one.get_by_role("tab", name=tab.capitalize())).to_have_attribute("aria-selected", "true")
        expect(one.locator("#machine")).to_contain_text("free on disk")
    beats(list(pages.values()), 3)
    for one in pages.values():
        one.wait_for_function(CALM, polling=2000)
    for tab, one in pages.items():
        one.on("request", functools.partial(note_path, asked[tab]))
        one.evaluate("window.framesAsked = 0")
    beats(list(pages.values()), 3)
    for tab, one in pages.items():
        assert one.evaluate(ENDLESS) == [], tab
        # Gradio's loading sign may go on for ever, slowed to a frame a second (static/early.js); unslowed it is 60.
        assert one.evaluate("window.framesAsked") < 30, tab
        assert set(asked[tab]) - {"/runs.json"} == {"/pulse"}, tab  # the list of runs is looked at every few seconds


def test_a_run_is_followed_and_its_end_told_without_gradio_in_between(
    page: Page, little_home: Path, start: Start
) -> None:
    run = make_run(little_home, "live", 2e-4)
    overfitted(little_home, "past")
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--nonce", "n1"])
    gradio: list[str] = []

    def note(request: Request) -> None:
        path = urlsplit(request.url).path
        if path.startswith("/gradio_api/"):
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
            button, side = page.get_by_role("button", name="Notify me when a run ends"), page.locator("#now")
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
