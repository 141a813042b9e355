"""Texts that are scripts, wherever the pages show what people, files and models wrote: none of them runs.

Each of them is the name of a run and what it sampled and logged, the name of a dataset and of its file, a row, what a
model answered in an evaluation and, word by word, in Compare, and the name of a person in the admin's view; each of
those is opened. The browser is told to pass over the page's policy, which would stop them too: here it is the escaping
that is tried.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect
from starlette.datastructures import Headers

from studio.evaluation import files
from studio.evaluation.prompts import Prompt
from studio.evaluation.scores import Row
from studio.rundir import About, Exit, Journal, RunDir
from studio.services.core import quotas
from studio.services.core.identity import Visitor
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.evals import evaluations, prompt_sets
from studio.services.models import models
from studio.settings import Settings
from studio.ui.compare.evaluation_page import PAGE
from studio.ui.web.auth import COOKIE, VisitorSessions
from tests import space
from tests.artefacts import adapter_run
from tests.belongings import no_worker
from tests.conftest import write_jsonl
from tests.e2e.conftest import Served
from tests.e2e.test_whole_path import tab
from tests.security.scripts import SCRIPTS
from tests.tiny import saying
from tests.unit.services.runs.test_run_list import make

pytestmark = pytest.mark.browser
WORKS = 600_000  # ms; a worker imports torch, and a busy machine is no failure
GRADIO_ASKS = ("https://huggingface.co/api/", "https://fonts.googleapis.com/css2?family=")
EVIL = "<img src=x onerror=window.ran=1>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """All of them as names, notes, tags, rows and answers; and a model that says them one after the other."""
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        models.add(studio, str(saying(tmp_path / "tiny", SCRIPTS)), lambda *_: None)
        rows = [{"instruction": text, "input": text, "output": text} for text in SCRIPTS]
        first = Path(datasets.add(studio, write_jsonl(tmp_path / f"{EVIL}.jsonl", rows)).path)
        for number, text in enumerate(SCRIPTS):
            _run(studio, number, text)
            _dataset(first, text)
        answers = adapter_run(studio.settings.runs / "answers", tmp_path / "tiny")
        told = json.loads(answers.about.read_text())
        answers.about.write_text(json.dumps(told | {"name": EVIL, "created": 99.0}))
        studio.refresh()
        studio.look()
        asked = prompt_sets.add_typed(studio, f"{EVIL} => {EVIL}", EVIL)
        with no_worker():
            made = studio.settings.evaluations / evaluations.start(studio, "answers", [asked.id]).id
        prompts = (Prompt(({"role": "user", "content": text},), reference=text) for text in SCRIPTS)
        found = [Row(asked.id, one, dict.fromkeys(("base", "adapted"), one.reference)) for one in prompts]
        files.write_result(made, found, [])
        Exit("completed", EVIL).write(RunDir(made))
    return tmp_path / "home"


def _run(studio: Studio, number: int, text: str) -> None:
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


def _dataset_id(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _dataset(like: Path, text: str) -> None:
    """The same rows under this name, from a file of this name, which no disk would take for some of them."""
    folder = like.with_name(_dataset_id(text))
    shutil.copytree(like, folder)
    told = json.loads((folder / "provenance.json").read_text())
    told |= {"id": folder.name, "sha256": like.name, "name": text, "source": text, "note": text, "why": text}
    (folder / "provenance.json").write_text(json.dumps(told))


FITS = """() => {
  const view = document.querySelector('details.admin'), end = view.getBoundingClientRect().right + 1;
  return view.scrollWidth <= view.clientWidth
    && [...view.querySelectorAll('b, button')].every((one) => one.getBoundingClientRect().right <= end);
}"""


@contextmanager
def tried(browser: Browser, url: str, cookie: str = "", besides: tuple[str, ...] = ()) -> Iterator[Page]:
    """A page on which nothing may open a dialog or ask anybody else, but for addresses that begin with `besides`."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, bypass_csp=True)
    context.set_default_timeout(30_000)
    if cookie:
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": url}])
    page = context.new_page()
    asked: list[str] = []
    dialogs: list[str] = []

    def refuse(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", refuse)
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert not dialogs
    strange = {one for one in asked if not one.startswith((url, "data:", "blob:", *besides))}
    assert not strange, f"a script asked {strange}"


def assert_nothing_ran(page: Page, where: str) -> None:
    assert page.evaluate("window.ran") is None, f"a script ran in {where}"


def test_no_script_runs_anywhere(browser: Browser, home: Path, start: Callable[[Path], Served]) -> None:
    served = start(home)
    with tried(browser, served.url) as page:
        page.goto(f"{served.url}/?tab=runs")
        _each_run(page, home)
        page.locator("#runs-table tbody tr").first.hover()
        for name in ("Train", "Compare", "Export", "Data"):
            tab(page, name)
            expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
            expect(page.locator("[role=tabpanel]:visible .pending")).to_have_count(0)
            assert_nothing_ran(page, name)


def test_datasets_of_all_names_and_rows(
    browser: Browser, home: Path, start: Callable[[Path], Served], tmp_path: Path
) -> None:
    served = start(home)
    with tried(browser, served.url) as page:
        page.goto(f"{served.url}/?tab=data")
        items = page.locator("#dataset-list .item")
        expect(items).to_have_count(len(SCRIPTS) + 1)
        assert {text.strip() for text in SCRIPTS} <= {text.strip() for text in items.locator("b").all_inner_texts()}
        for text in SCRIPTS:
            page.locator(f'#dataset-list [data-id="{_dataset_id(text)}"]').click()
            expect(page.locator("#dataset-view h2")).to_have_text(text, timeout=WORKS)
            expect(page.locator("#what-it-is")).to_contain_text(text.strip(), timeout=WORKS)
            assert_nothing_ran(page, f"the dataset {text}")
        expect(page.locator(".tokens").first).to_be_visible(timeout=WORKS)
        assert "onerror" in page.locator("[role=tabpanel]:visible").inner_text()
        assert_nothing_ran(page, "the rows of a dataset")
        page.locator("#dataset-file input[type=file]").set_input_files(
            write_jsonl(tmp_path / "<svg onload=window.ran=1>.jsonl", [{"q": text, "a": text} for text in SCRIPTS])
        )
        expect(page.locator("#adding")).to_contain_text("<script>window.ran", timeout=WORKS)
        assert_nothing_ran(page, "a file that is mapped")


def _each_run(page: Page, home: Path) -> None:
    """Opened from the list one after the other, with everything that can be unfolded."""
    rows = page.locator("#runs-table tbody tr")
    expect(rows).to_have_count(50)
    page.locator("#runs-table .run-more").click()
    expect(rows).to_have_count(len(SCRIPTS) + 1)
    assert_nothing_ran(page, "the list of runs")
    for number, text in enumerate(SCRIPTS):
        rows.nth(len(SCRIPTS) - number).locator(".link").first.click()
        name = About.read(RunDir(home / "runs" / f"id-r{number}")).name
        expect(page.locator("#run-head h2")).to_have_text(name)
        if not number:
            for fold in ("History", "Log", "Recipe"):
                page.get_by_role("button", name=f"{fold} ▼", exact=True).click()
        expect(page.locator("#run-log")).to_contain_text(text.strip())
        expect(page.locator("#run-samples")).to_contain_text(text.strip())
        assert_nothing_ran(page, f"the run {text}")


def test_what_a_model_says_is_text(browser: Browser, home: Path, start: Callable[[Path], Served]) -> None:
    """Answers as they stream, as they stand, as they are kept, as they were evaluated, and in files to give away."""
    served = start(home)
    with tried(browser, served.url) as page:
        page.goto(f"{served.url}/?run=answers&tab=compare")
        expect(page.locator("#side-2 input")).to_have_value(f"{EVIL}, step 12")
        page.locator("#question textarea").fill(SCRIPTS[0])
        page.locator("#ask").click()
        base = page.locator(".turn").first.locator("article").first
        expect(base).to_contain_text("tokens/s", timeout=WORKS)
        said = base.text_content() or ""
        assert [text for text in SCRIPTS if text not in said] == []
        assert_nothing_ran(page, "answers that streamed")
        page.locator("#differences input").check()
        assert_nothing_ran(page, "answers with their differences marked")
        shared = page.locator("#comparison-links a").first.get_attribute("href") or ""
        page.reload()
        expect(page.locator(".turn").first.locator("article").first).to_contain_text(SCRIPTS[-1].strip())
        assert_nothing_ran(page, "a conversation that was kept")

        page.locator("#compare-view").get_by_label("Scores").check()
        assert_nothing_ran(page, "the scores")
        given = page.get_by_role("link", name="Save as HTML").get_attribute("href") or ""
        page.locator("#compare-view").get_by_label("Table").check()
        table, found = page.locator("#answers-table"), ""
        for offset in range(0, len(SCRIPTS), PAGE):
            expect(table.locator("tbody tr").first).to_contain_text(SCRIPTS[offset].strip())
            found += table.text_content() or ""
            assert_nothing_ran(page, f"the table of answers from {offset}")
            if offset + PAGE < len(SCRIPTS):
                table.get_by_role("button", name="Next").click()
        assert [text for text in SCRIPTS if text not in found] == []
        for path in (shared, given):
            # The file itself, as whoever it is given to opens it, without the policy that is written in it.
            text = page.request.get(f"{served.url}{path}").text()
            page.goto("about:blank")
            page.set_content(text)
            assert SCRIPTS[-1].strip() in (page.locator("body").text_content() or "")
            assert_nothing_ran(page, path)


def test_names_of_people_are_text(browser: Browser, tmp_path: Path) -> None:
    """In the admin's view, where all of them stand; and where one reads one's own."""
    home, port = tmp_path / "home", space.free_port()
    cookies = {}
    with Keeper(Settings(home=home, offline=True, hosted=True, admins="host")) as studio:
        desk = VisitorSessions(studio.open_to_visitors(), "hosted")
        people = [Visitor(f"account-{number}", text) for number, text in enumerate(SCRIPTS, 10)]
        for one in people:
            quotas.note(studio, one, starts=1)
        for one in (Visitor("account-1", "host", admin=True), *people[::11]):
            cookies[one.name] = desk.cookie(one, Headers({})).partition(";")[0].partition("=")[2]
        studio.for_visitors = False
    process = space.begin(home, port, {})
    try:
        for name, cookie in cookies.items():
            # What the page of a Space asks by itself; the policy, which is off here, does not let it.
            with tried(browser, f"http://127.0.0.1:{port}", cookie, GRADIO_ASKS) as page:
                page.goto(f"http://127.0.0.1:{port}")
                expect(page.locator("#visit")).to_contain_text(f"Signed in as {name.strip()}")
                assert_nothing_ran(page, f"the page of {name}")
                if name == "host":
                    page.get_by_text("Who uses this studio").click()
                    told = page.locator("details.admin li b")
                    expect(told).to_have_count(len(SCRIPTS))
                    assert {*told.all_text_contents()} == {*SCRIPTS}
                    assert_nothing_ran(page, "the admin's view")
                    # However long a name, who it is stands beside what would stop or clear them.
                    assert page.evaluate(FITS)
    finally:
        process.terminate()
        process.wait(30)


def test_there_are_fifty() -> None:
    assert len(set(SCRIPTS)) >= 50
