"""app.py as a Space runs it: two accounts and someone unknown walk the whole path, and none sees another's things."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from studio.services.core.keeper import Keeper
from studio.services.models import models
from studio.settings import Settings
from tests import oidc
from tests.conftest import little_rows, write_jsonl
from tests.space import begin as start_space
from tests.space import free_port

pytestmark = pytest.mark.browser
TRAINS = 900_000  # ms; no shorter wait makes it more right


@pytest.fixture
def space(tmp_path: Path, tiny: Path) -> Iterator[str]:
    """The address of a Space whose disk holds the tiny model, and whose provider is ours."""
    home = tmp_path / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(tiny), lambda *_: None)
    port = free_port()
    address = f"127.0.0.1:{port}"
    with oidc.provider(f"http://{address}/login/callback") as provider:
        process = start_space(home, port, provider.environment())
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(30)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def begin(context: BrowserContext, space: str, who: str, folder: Path) -> Page:
    """Arrive, sign in if one has a name, upload examples of one's own and start a short run on them."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(space)
    you = page.locator("#visit")
    expect(you).to_contain_text("You are not signed in")
    expect(you.get_by_role("link", name="Duplicate this Space")).to_have_attribute(
        "href", "https://huggingface.co/spaces/someone/studio?duplicate=true"
    )
    expect(you).to_contain_text("Everything here is lost when this Space restarts")
    if who in oidc.ACCOUNTS:
        you.get_by_role("link", name="Sign in").click()
        page.locator(f"#as-{who}").click()
        expect(you).to_contain_text(f"Signed in as {who}")
    # All have the same examples: that another has them too is not to be noticed.
    file = write_jsonl(folder / f"{who}.jsonl", little_rows())
    page.locator("#dataset-file input[type=file]").set_input_files(file)
    page.locator("#add-dataset").click()
    expect(page.get_by_role("heading", name=who, exact=True)).to_be_visible()
    page.locator("#train-on").click()
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    page.locator("#advanced").get_by_role("button", name="Schedule").click()
    steps = page.locator("#field-max_steps input").first
    steps.fill("2")
    steps.blur()
    expect(page.locator("#estimate")).to_contain_text(re.compile(r"2\s*steps"))
    page.locator("#start-training").click()
    expect(page.locator("#open-run")).to_contain_text(f"{who}-1")
    return page


def end(page: Page, who: str, folder: Path) -> None:
    """When the run is over: ask it, export it, take it home; and see nothing of the others'."""
    # The end of somebody's first run opens Compare, with a held-out message to ask.
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute(
        "aria-selected", "true", timeout=TRAINS
    )
    expect(page.locator("#question textarea")).not_to_have_value("")
    tab(page, "Runs")
    expect(page.locator("#open-run .state-completed")).to_be_visible()
    tab(page, "Compare")
    page.get_by_label("System prompt and sampling").check()
    longest = page.locator("#longest-answer input").first
    longest.fill("4")
    longest.blur()
    page.locator("#question textarea").fill(f"{who} asks")
    page.locator("#ask").click()
    answers = page.locator(".turn").first.locator("article")
    expect(answers.nth(1)).to_contain_text("tokens/s", timeout=TRAINS)
    tab(page, "Export")
    page.locator("#export-adapter").click()
    with page.expect_download(timeout=TRAINS) as taken:
        page.locator("#export").get_by_role("link", name=re.compile("Download")).first.click(timeout=TRAINS)
    taken.value.save_as(folder / f"{who}.zip")
    with zipfile.ZipFile(folder / f"{who}.zip") as packed:
        assert any(name.endswith("adapter_model.safetensors") for name in packed.namelist())


def test_three_walk_the_path_and_see_their_own(browser: Browser, space: str, tmp_path: Path) -> None:
    people = ("ann", "ben", "cy")  # cy has no account
    contexts = {who: browser.new_context(viewport={"width": 1440, "height": 1000}) for who in people}
    pages = {who: begin(contexts[who], space, who, tmp_path) for who in people}
    for who, page in pages.items():
        end(page, who, tmp_path)
    ids = {}
    for who, page in pages.items():
        listed = page.request.get(f"{space}/runs.json").json()
        assert listed["total"] == 1
        ids[who] = listed["rows"][0][0]
        page.reload()
        body = page.locator("body")
        tab(page, "Runs")
        expect(body).to_contain_text(f"{who}-1")
        for other in people:
            if other != who:
                expect(body).not_to_contain_text(f"{other}-1")
                expect(body).not_to_contain_text(f"{other} asks")
    for who, page in pages.items():
        for other, run in ids.items():
            told = page.request.get(f"{space}/runs/{run}.json").json()
            assert ("error" not in told) == (who == other)
    # Signed out, there is nothing of it; the host sees who uses what, and no names of what they made.
    pages["ann"].locator("#visit").get_by_role("button", name="Sign out").click()
    expect(pages["ann"].locator("#visit")).to_contain_text("You are not signed in")
    assert pages["ann"].request.get(f"{space}/runs.json").json()["total"] == 0
    host = contexts["ann"].new_page()
    host.goto(f"{space}/sign-in")
    host.locator("#as-host").click()
    host.get_by_text("Who uses this studio").click()
    view = host.locator("#admin")
    for name in ("ann", "ben", "not signed in"):
        expect(view).to_contain_text(name)
    expect(view).not_to_contain_text("ann-1")
    # What is cleared away is said before and after, and is nobody else's.
    view.get_by_role("button", name="Clear ben").click()
    expect(view).to_contain_text("This deletes for good, for ben: 1 export, 1 comparison, 1 run and 1 dataset")
    assert pages["ben"].request.get(f"{space}/runs.json").json()["total"] == 1
    view.get_by_role("button", name="Delete", exact=True).click()
    expect(view).to_contain_text("Deleted for ben: 1 export, 1 comparison, 1 run and 1 dataset")
    totals = {who: pages[who].request.get(f"{space}/runs.json").json()["total"] for who in ("ben", "cy")}
    assert totals == {"ben": 0, "cy": 1}
    for context in contexts.values():
        context.close()
