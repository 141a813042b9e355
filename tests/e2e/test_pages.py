"""What people meet on the way: files that need a mapping or are broken, wrong values, narrow screens, a dead studio."""

import http.client
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.e2e.conftest import Served
from tests.e2e.test_whole_path import set_number, tab

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]


def test_a_file_with_other_columns_is_mapped_and_added(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("question,reply\nWho?,<b>Me</b><script>document.title='broken'</script>\nWhere?,Here\n")
    page.goto(start(little_home).url)
    page.locator("#dataset-file input[type=file]").set_input_files(path)
    expect(page.locator("#adding")).to_contain_text("question")
    expect(page.locator("#map-instruction input")).to_have_value("question")
    page.locator("#map-output input").fill("reply")
    page.locator("#map-output input").press("Enter")
    expect(page.locator("#map-preview")).to_contain_text("<b>Me</b>")
    page.locator("#read-mapped").click()
    page.locator("#add-dataset").click()
    expect(page.get_by_role("heading", name="faq", exact=True)).to_be_visible()
    expect(page.locator(".tokens")).to_contain_text("<b>Me</b><script>")
    assert page.title() == "LoRA Studio"


def test_many_tabs_of_one_browser_are_all_served(page: Page, little_home: Path, start: Start) -> None:
    """A browser has six connections for all pages of a studio: none may keep one of them for itself."""
    url = start(little_home).url
    for opened in (page, *(page.context.new_page() for _ in range(7))):
        opened.goto(url)
        expect(opened.get_by_role("heading", name="little", exact=True)).to_be_visible()
    tab(page, "Train")  # and the first is served still
    expect(page.locator("#estimate")).to_contain_text("Fits")


def test_a_tab_opened_before_the_page_has_arrived_stays_open(page: Page, little_home: Path, start: Start) -> None:
    served = start(little_home)
    held: list[Route] = []
    hold = True
    page.route("**/gradio_api/run/predict*", lambda asked: held.append(asked) if hold else asked.continue_())
    with page.expect_request("**/gradio_api/run/predict*"):
        page.goto(served.url)
    tab(page, "Compare")
    hold = False
    for asked in held:
        asked.continue_()
    expect(page.locator("#dataset-view")).to_contain_text("little")  # what arriving brings is there
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")


def test_an_event_stream_that_is_aborted_ends_without_an_error(page: Page, shared: Served) -> None:
    """Gradio's client aborts its streams while it reads them; it must not log that as an error."""
    page.goto(shared.url)
    ends = page.evaluate(
        """async () => {
            const abort = new AbortController(), ends = [];
            const open = () => fetch(new Request("/gradio_api/heartbeat/aborted", { signal: abort.signal }));
            const reader = (await open()).body.pipeThrough(new TextDecoderStream()).getReader();
            ends.push((await reader.read()).done);
            const pending = reader.read();
            abort.abort();
            try {
                let chunk = await pending;
                while (!chunk.done) chunk = await reader.read();
                ends.push("ended");
                await reader.cancel();
                ends.push((await open()).ok);
            } catch (error) { ends.push(String(error)); }
            return ends;
        }"""
    )
    assert ends == [False, "ended", True]


def test_a_file_that_is_no_dataset_gets_a_sentence(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "nothing.jsonl"
    path.write_text("\n")
    page.goto(start(little_home).url)
    page.locator("#dataset-file input[type=file]").set_input_files(path)
    expect(page.get_by_role("alert").first).to_contain_text("nothing.jsonl contains only white space")


def test_an_impossible_value_is_said_beside_the_form_and_cannot_be_started(
    page: Page, little_home: Path, start: Start
) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    set_number(page, "r", "2000")
    expect(page.locator("#estimate")).to_contain_text("r must be at most 1024")
    expect(page.locator("#start-training")).to_be_disabled()
    set_number(page, "r", "4")
    expect(page.locator("#start-training")).to_be_enabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_overflows_a_narrow_screen(browser: Browser, little_home: Path, start: Start, theme: str) -> None:
    served = start(little_home)
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(served.url)
    for name in ("Data", "Train", "Runs", "Compare", "Export"):
        tab(page, name)
        expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{name} is {width} px wide"
    assert page.evaluate("document.body.classList.contains('dark')") is (theme == "dark")
    context.close()


def test_a_closed_page_and_a_killed_studio_do_not_touch_training(page: Page, little_home: Path, start: Start) -> None:
    served = start(little_home)
    started = served.cli(
        "train", "--model", "tiny", "--dataset", "little", "--set", "max_steps=400", "--set", "dtype=float32",
        "--set", "held_out=0",
    )  # fmt: skip
    run = str(started["id"])
    page.goto(f"{served.url}/?run={run}")
    expect(page.locator("#open-run .state-running")).to_be_visible(timeout=120_000)
    expect(page.locator("#stop-run")).to_be_visible()
    expect(page.locator("#no-runs")).to_be_hidden()
    page.goto("about:blank")
    served.kill()
    deadline = time.monotonic() + 900
    while not (little_home / "runs" / run / "exit.json").exists():
        assert time.monotonic() < deadline, "the run did not go on without the studio"
        time.sleep(0.2)
    again = start(little_home)
    info = again.cli("runs", "show", run)
    assert (info["state"], info["step"]) == ("completed", 400)
    page.goto(f"{again.url}/?run={run}")
    expect(page.locator("#open-run .state-completed")).to_be_visible()
    expect(page.locator("#compare-run")).to_be_visible()
    expect(page.locator("#stop-run")).to_be_hidden()
    from studio.services.core.keeper import Keeper
    from studio.services.runs import runs
    from studio.settings import Settings

    with Keeper(Settings(home=little_home, offline=True)) as reader:
        steps = [point["step"] for point in runs.points(reader, run).metrics]
    assert steps == list(range(1, 401))


def test_a_damaged_database_is_told_of_and_nothing_is_lost(page: Page, little_home: Path, start: Start) -> None:
    start(little_home).kill()
    path = little_home / "studio.db"
    path.write_bytes(path.read_bytes()[:5000])
    for side in little_home.glob("studio.db-*"):
        side.unlink()
    page.goto(start(little_home).url)
    expect(page.locator("#studio-notices")).to_contain_text("has been rebuilt from the run directories")
    expect(page.locator("#dataset-list .item", has_text="little")).to_be_visible()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    ],
)
def test_other_sites_cannot_talk_to_the_studio(shared: Served, headers: dict[str, str], status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=10)
    connection.request("GET", "/healthz", headers=headers)
    assert connection.getresponse().status == status


PATHS = (
    "/download/0000000000000000",
    "/download/..%2f..%2fstudio.db",
    "/rejects/0000000000000000.csv",
    "/rejects/..%2f..%2fstudio.db.csv",
    "/rejects/little.exe",
    "/static/../pyproject.toml",
    "/gradio_api/file=/etc/passwd",
)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_given_away_by_path(shared: Served, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status in (403, 404) and b"root:" not in answer.read()
