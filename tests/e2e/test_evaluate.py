"""An evaluation in a real browser: started, followed, cancelled, read as scores and as a table, taken away."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Served

pytestmark = pytest.mark.browser
TAKES = 600_000  # ms; minutes on a busy machine


def open_compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.locator("#compare-view").get_by_label("Scores").check()
    expect(page.locator("#evaluate-start")).to_be_visible()


def test_an_evaluation_from_the_button_to_the_file(
    page: Page, little_home: Path, start: Callable[[Path], Served], tmp_path: Path
) -> None:
    served = start(little_home)
    run = served.cli(
        "train", "--model", "tiny", "--dataset", "little", "--set", "max_steps=3", "--set", "dtype=float32",
        "--set", "held_out=0.5", "--set", "save_steps=1", "--set", "save_total_limit=3", "--follow",
    )  # fmt: skip
    assert run["state"] == "completed"
    page.goto(served.url)
    open_compare(page)
    expect(page.locator("#scores")).to_contain_text("Not evaluated yet")
    expect(page.locator("#evaluation-table")).to_be_hidden()

    # Prompts of one's own, with markup in them that must stay text.
    page.get_by_role("button", name="Your own prompts").click()
    page.locator("#own-prompts textarea").fill("Say <b>hi</b> => hi\nSay ho => json: ho")
    page.locator("#own-name input, #own-name textarea").first.fill("mine")
    page.locator("#add-own").click()
    expect(page.locator("#evaluation-notice")).to_contain_text("mine: 2 prompts")
    expect(page.get_by_role("checkbox", name="mine (2)")).to_be_checked()

    # Cancelled: nothing is kept.
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluation-cancel")).to_be_visible()
    expect(page.locator("#evaluate-start")).to_be_hidden()
    page.locator("#evaluation-cancel").click()
    expect(page.locator("#evaluation-notice")).to_contain_text("Cancelled", timeout=TAKES)
    expect(page.locator("#evaluate-start")).to_be_visible()

    # Done; a reload in the middle loses nothing.
    page.get_by_role("checkbox", name=re.compile("General")).uncheck()
    for step in (1, 2):
        page.locator("#evaluate-against input").click()
        page.get_by_role("option", name=f"little-1, checkpoint {step}").click()
    page.keyboard.press("Escape")
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluation-progress .doing")).to_be_visible()
    page.reload()
    open_compare(page)
    scores = page.locator("#scores")
    expect(scores.locator(".scores").first).to_be_visible(timeout=TAKES)
    expect(scores).to_contain_text("Held-out examples12 prompts")
    expect(scores.locator(".sentence").first).to_contain_text(
        re.compile(r"Perplexity .+, before .+: (better|cannot tell|worse)")
    )
    expect(scores.get_by_text("95% interval").first).to_be_visible()
    expect(scores.locator(".interval .range").first).to_be_visible()

    # The table: reference first, text as text, pages.
    page.locator("#compare-view").get_by_label("Table").check()
    table = page.locator("#answers-table")
    expect(table.locator("tbody tr")).to_have_count(10)
    expect(table.locator("thead")).to_contain_text(
        re.compile("Prompt.*Reference.*Base: tiny.*little-1, step 3.*step 1.*step 2", re.S)
    )
    table.get_by_role("button", name="Next").click()
    expect(table).to_contain_text("Say <b>hi</b>")
    expect(table).to_contain_text("not as expected")

    page.locator("#compare-view").get_by_label("Scores").check()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as HTML").click()
    path = tmp_path / "evaluation.html"
    download.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert "Say &lt;b&gt;hi&lt;/b&gt;" in text and "<script" not in text

    # Chosen from those there are: asked for once.
    alone = [f'"data":["{kept.stem}"]' for kept in (little_home / "evaluations").iterdir()]
    asked: list[str] = []
    page.on("request", lambda request: asked.extend(one for one in alone if one in (request.post_data or "")))
    with page.expect_response(lambda answer: any(one in (answer.request.post_data or "") for one in alone)):
        page.locator("#evaluation-choice input").click()
        page.locator("#evaluation-choice").get_by_role("option").first.click()
    page.locator("#compare-view").get_by_label("Table").check()
    expect(table.locator("tbody tr").first).to_be_visible()
    page.locator("#compare-view").get_by_label("Scores").check()
    expect(scores.locator(".scores").first).to_be_visible()
    assert len(asked) == 1
    page.set_viewport_size({"width": 390, "height": 900})
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
