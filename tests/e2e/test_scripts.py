"""Texts that are scripts, wherever the pages show what people, files and models wrote: none of them runs.

The browser is told to pass over the page's policy, which would stop them too: here it is the escaping that is tried.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from studio.rundir import Journal
from studio.services import datasets, models
from studio.services.studio import Studio
from studio.settings import Settings
from tests.conftest import write_jsonl
from tests.e2e.conftest import Served
from tests.e2e.test_whole_path import tab
from tests.security.scripts import SCRIPTS
from tests.unit.test_run_list import make

pytestmark = pytest.mark.browser


@pytest.fixture
def home(tmp_path: Path, tiny: Path) -> Path:
    """Fifty of them as rows, as names, notes and tags of runs, as what a model answered and how a run ended."""
    with Studio(Settings(home=tmp_path / "home", offline=True)) as studio:
        models.add(studio, str(tiny), lambda *_: None)
        rows = [{"instruction": text, "input": text, "output": text} for text in SCRIPTS]
        path = write_jsonl(tmp_path / "<img src=x onerror=window.ran=1>.jsonl", rows)
        datasets.add(studio, path)
        for number, text in enumerate(SCRIPTS):
            run = make(studio, f"r{number}", created=float(number), notes=text, tags=[text[:40]])
            about = json.loads(run.about.read_text())
            run.about.write_text(json.dumps(about | {"name": text}))
            with Journal(run.events) as journal:
                journal.write("note", level="warn", text=text)
                journal.write("sample", step=1, prompt=text, answer=text, tokens=4)
                journal.write("progress", what=text, done=1, of=2)
            told = json.loads(run.exit.read_text())
            run.exit.write_text(json.dumps(told | {"message": text, "traceback": text}))
            (run.path / "log.txt").write_text(text)
    return tmp_path / "home"


def assert_nothing_ran(page: Page, where: str) -> None:
    assert page.evaluate("window.ran") is None, f"a script ran in {where}"


def test_no_script_runs_anywhere(browser: Browser, home: Path, start: Callable[[Path], Served], tmp_path: Path) -> None:
    served = start(home)
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, bypass_csp=True)
    context.set_default_timeout(30_000)
    page = context.new_page()
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{served.url}/?tab=runs")
    expect(page.locator("#runs-table tbody tr").first).to_be_visible()
    shown = page.locator("#runs-table").inner_text()
    assert SCRIPTS[-1] in shown
    assert_nothing_ran(page, "the list of runs")
    for number in range(0, len(SCRIPTS), 12):
        page.goto(f"{served.url}/?run=id-r{number}")
        expect(page.locator("#run-head h2")).to_have_text(SCRIPTS[number].strip())
        assert_nothing_ran(page, f"the run {SCRIPTS[number]}")
    page.locator("#runs-table tbody tr").first.hover()
    for name in ("Data", "Train", "Compare", "Export", "Data"):
        tab(page, name)
        expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
        expect(page.locator("[role=tabpanel]:visible .pending")).to_have_count(0)
        assert_nothing_ran(page, name)
    page.locator("#dataset-list .item").first.click()
    expect(page.locator(".tokens").first).to_be_visible()
    assert "onerror" in page.locator("#dataset-list").inner_text()
    assert_nothing_ran(page, "the rows of the dataset")
    page.locator("#dataset-file input[type=file]").set_input_files(
        write_jsonl(tmp_path / "<svg onload=window.ran=1>.jsonl", [{"q": text, "a": text} for text in SCRIPTS])
    )
    expect(page.locator("#adding")).to_contain_text("<script>window.ran")
    assert_nothing_ran(page, "a file that is mapped")
    context.close()
    assert not dialogs
    assert all(url.startswith((served.url, "data:", "blob:")) for url in asked), "a script asked an address"


def test_there_are_fifty() -> None:
    assert len(set(SCRIPTS)) >= 50
