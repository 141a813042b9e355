"""Compare in a real browser, with the tiny model: ask, stream, ask on, stop, retry, vote, share."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from studio.recipe.fields import Data
from studio.services.chat import chat, participants
from studio.services.chat.chat import Answer, ChatState
from studio.services.chat.comparisons import clean_text
from studio.services.chat.participants import Side
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from studio.ui.web.server import make_app
from tests.e2e.conftest import Served
from tests.serving import free_port, serving
from tests.unit.services.chat.test_comparisons import NASTY

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]
LONG = 180_000  # ms: loading the libraries on a busy machine


@pytest.fixture
def served(little_home: Path, start: Start) -> Served:
    """A studio with a run that has an adapter and two checkpoints."""
    studio = start(little_home)
    sets = ("max_steps=4", "r=4", "dtype=float32", "save_steps=2", "learning_rate=0.02", "held_out=0.2")
    words = [word for one in sets for word in ("--set", one)]
    run = str(studio.cli("train", "--model", "tiny", "--dataset", "little", *words)["id"])
    deadline = time.monotonic() + 300
    while not (little_home / "runs" / run / "exit.json").exists():
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.2)
    return studio


@pytest.fixture
def mouthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A studio in this process whose sides say what the list holds, and its address."""
    says: list[str] = []
    data = Data()
    pair = [
        Side("base", "base", "Base", "m", "m", "float32", data),
        Side("r", "r@1", "<i>run</i>", "m", "m", "float32", data),
    ]

    def answer(*_: object, **__: object) -> Iterator[ChatState]:
        for share in (0.5, 1.0):
            cut = tuple(Answer(text[: int(share * len(text))]) for text in says)
            yield ChatState("Answering", cut)
        yield ChatState("", tuple(Answer(text, done=True, tokens=9) for text in says), finished=True)

    monkeypatch.setattr(participants, "choices", lambda _: [("<i>run</i>", "r")])
    monkeypatch.setattr(participants, "resolve", lambda *_: pair)
    monkeypatch.setattr(chat, "ask", answer)
    monkeypatch.setattr(chat, "held_out_prompts", lambda *_: [])
    port = free_port()
    with (
        Keeper(Settings(home=tmp_path / "mouthy", offline=True, port=port)) as studio,
        serving(studio, make_app(studio)),
    ):
        yield f"http://127.0.0.1:{port}", says


# The page last, so that it is closed before the server is.
def test_whatever_is_said_is_shown_as_text_and_the_page_lives(mouthy: tuple[str, list[str]], page: Page) -> None:
    url, says = mouthy
    page.goto(f"{url}/?tab=compare")
    expect(page.locator("#answers .side")).to_have_count(2)
    page.get_by_label("Mark differences").check()
    for number, text in enumerate(NASTY, 1):
        says[:] = [text, text[::-1]]
        ask(page, text[:5000])
        answered(page, number)
        shown = page.locator("#answers .said").first
        assert shown.evaluate("element => element.querySelectorAll(':not(mark)').length") == 0
        said = shown.evaluate("element => element.textContent")
        assert said == clean_text(text).rstrip() and "\x1b" not in said
        width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert width <= 0, f"the page is {width} px too wide"
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()  # on a narrow page the sidebar begins closed
    expect(page.locator("#compare [data-turn]")).to_have_count(len(NASTY))
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.locator("#new-comparison").click()
    expect(page.locator("#compare [data-turn]")).to_have_count(0)


def test_what_is_asked_behind_a_choice_stays(mouthy: tuple[str, list[str]], page: Page) -> None:
    """However late an answer comes: whatever asks again for these sides waits here."""
    url, says = mouthy
    says[:] = ["Blue.", "Green."]
    seen, again = set[int](), list[Route]()

    def first_only(route: Route) -> None:
        sent = json.loads(route.request.post_data or "{}")
        if sent.get("data") != ["base", "r", "base"]:
            return route.fallback()
        if sent["fn_index"] not in seen:
            seen.add(sent["fn_index"])
            return route.continue_()
        return again.append(route)

    page.route("**/run/predict**", first_only)
    page.goto(f"{url}/?tab=compare")
    expect(page.locator("#answers .side")).to_have_count(2)
    page.locator("#side-3 input").click()
    page.get_by_role("option", name="Base").click()
    expect(page.locator("#answers .side")).to_have_count(3)
    ask(page, "Which colour?")
    answered(page, 1)
    for late in again:
        with page.expect_response(lambda response, late=late: response.request == late.request):
            late.continue_()
    page.get_by_label("Mark differences").check()  # draws the conversation anew, as the page knows it
    expect(page.locator("#answers mark").first).to_be_visible()
    assert seen and not again


def ask(page: Page, question: str) -> None:
    page.locator("#question textarea").fill(question)
    page.locator("#ask").click()


def answered(page: Page, turns: int) -> None:
    expect(page.locator("#compare [data-turn]")).to_have_count(turns, timeout=LONG)
    expect(page.locator("#ask")).to_be_visible(timeout=LONG)
    expect(page.locator("#compare [data-asking]")).to_have_count(0, timeout=LONG)


def limit(page: Page, tokens: int) -> None:
    box = page.locator("#longest-answer input").first
    if not box.is_visible():
        page.get_by_label("System prompt and sampling").check()
    box.fill(str(tokens))
    box.blur()


def test_a_comparison_from_the_first_question_to_the_file(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto(f"{served.url}/?tab=compare")
    expect(page.locator("#answers .side")).to_have_count(2)
    expect(page.locator("#held-out .prompt").first).to_be_visible()
    limit(page, 24)
    page.locator("#temperature input").first.fill("1.5")  # the tiny model's likeliest tokens are line breaks
    page.locator("#temperature input").first.blur()

    # Both stream; the second question goes to the same two.
    ask(page, "Hello, who are you?")
    expect(page.locator("#stop-answer")).to_be_visible()
    answered(page, 1)
    expect(page.locator("#answers .side").nth(0)).to_contain_text("Base")
    expect(page.locator("#answers .side").nth(1)).to_contain_text("little-1, step 4")
    expect(page.locator("#answers footer").nth(1)).to_contain_text("tokens/s")
    expect(page.locator("#chat-memory")).to_contain_text("In memory: tiny and an adapter")
    ask(page, "And <b>then</b>?")
    answered(page, 2)
    expect(page.locator("#earlier .asked")).to_have_text("Hello, who are you?")
    expect(page.locator("#answers .asked")).to_have_text("And <b>then</b>?")

    # What was said is kept over a reload, and how it was asked.
    said = page.locator("#answers .said").all_inner_texts()
    page.reload()
    expect(page.locator("#compare [data-turn]")).to_have_count(2)
    assert page.locator("#answers .said").all_inner_texts() == said
    expect(page.locator("#temperature input").first).to_have_value("1.5")

    # Differences are marked; the last question is asked again, and mended.
    page.get_by_label("Mark differences").check()
    expect(page.locator("#answers mark").first).to_be_visible()
    page.get_by_label("Mark differences").uncheck()
    limit(page, 8)
    page.locator("#retry").click()
    expect(page.locator("#seed input").first).to_have_value("1")
    expect(page.locator("#answers footer").first).to_contain_text("8 tokens", timeout=LONG)
    answered(page, 2)
    page.locator("#edit-question").click()
    expect(page.locator("#question textarea")).to_have_value("And <b>then</b>?")
    expect(page.locator("#compare [data-turn]")).to_have_count(1)

    # Stopped half-way, what there is stays.
    limit(page, 900)
    page.locator("#temperature input").first.fill("0")  # its likeliest tokens have no end
    page.locator("#temperature input").first.blur()
    ask(page, "Tell me a long story.")
    expect(page.locator("#answers .side .said").nth(1)).not_to_have_text("Waiting", timeout=LONG)
    page.locator("#stop-answer").click()
    answered(page, 2)
    expect(page.locator("#answers footer").first).to_contain_text(re.compile("stopped|cut at"))

    # The file needs nothing else.
    with page.expect_download() as download:
        page.get_by_role("link", name="Download HTML").click()
    path = tmp_path / "comparison.html"
    download.value.save_as(path)
    text = path.read_text()
    assert "<script" not in text and "Tell me a long story." in text and "little-1, step 4" in text
    page.locator("#new-comparison").click()
    expect(page.locator("#compare [data-turn]")).to_have_count(0)

    # Memory comes back on request.
    page.locator("#free-memory").click()
    expect(page.locator("#free-memory")).to_be_hidden()


def test_a_blind_comparison_hides_who_is_who_until_the_vote(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/?tab=compare")
    expect(page.locator("#answers .side")).to_have_count(2)
    limit(page, 6)
    page.get_by_label("Blind").check()
    for number, key in enumerate("1021120112", 1):
        ask(page, f"Question {number}?")
        answered(page, number)
        place = page.locator("#answers")
        expect(place.locator(".ballot")).to_have_count(3)
        assert not re.search(r"side-base|side-adapted|little-1|tokens/s", place.inner_html())
        if number % 2:
            place.locator(f'[data-vote="{key}"]').click()
        else:
            page.locator("#compare-head label").first.focus()
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press(key)
        expect(place.locator(".voted")).to_contain_text("preferred" if key != "0" else "voted for a tie")
        expect(place.locator(".side-base")).to_have_count(1)
    expect(page.locator("#answers .voted")).to_contain_text(re.compile(r"\d of 8 preferred the adapted model"))
    expect(page.locator("#answers .voted")).to_contain_text("(2 ties left out), 95% interval")
    (path,) = (served.home / "votes").iterdir()
    votes = [json.loads(line) for line in path.read_text().splitlines()]
    assert [vote["better"] == "tie" for vote in votes] == [key == "0" for key in "1021120112"]
    assert all(vote["blind"] for vote in votes)


def test_checkpoints_stand_beside_the_end(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/?tab=compare")
    expect(page.locator("#answers .side")).to_have_count(2)
    limit(page, 6)
    page.locator("#side-3 input").click()
    page.get_by_role("option", name="little-1, checkpoint 2").click()
    expect(page.locator("#answers .side")).to_have_count(3)
    ask(page, "Who are you?")
    answered(page, 1)
    expect(page.locator("#answers .side").nth(2)).to_contain_text("little-1, step 2")
    expect(page.locator("#answers footer")).to_have_count(3)
