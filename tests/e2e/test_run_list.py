"""The list of runs in a real browser: search, filter, order, star, name, note, tags, trash; and that it stays put."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from studio.rundir import read_json, write_json
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.e2e.conftest import Served
from tests.unit.services.runs.test_run_list import make

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        make(studio, "tickets 2", created=1000.0, loss=0.5, tags=["night"])
        make(studio, "tickets 10", created=2000.0, loss=0.2, state="failed")
        make(studio, "poems", created=3000.0, model="other/tiny-2", dataset="verse", notes="about the sea")
        make(studio, HOSTILE, created=500.0, notes=HOSTILE, model=HOSTILE)
        make(studio, "secret", created=4000.0, owner="somebody", tags=["hidden"])
    return tmp_path / "home"


def rows(page: Page) -> Locator:
    return page.locator("#runs-table tbody .link")


def shows(page: Page, *names: str) -> None:
    expect(rows(page)).to_have_text(list(names))


def opened(page: Page, name: str) -> None:
    """The open run is this one everywhere: in the list, in its head, in its curves, in the address."""
    expect(page.locator("#run-head h2")).to_have_text(name)
    expect(page.locator("#runs-table tr.chosen .link")).to_have_text(name)
    expect(page.locator("#curves .curve-runs")).to_contain_text(name)
    expect(page).to_have_url(re.compile(re.escape(f"id-{name}".replace(" ", "-"))))


def test_search_filters_and_order(page: Page, home: Path, start: Start) -> None:
    served = start(home)
    page.goto(f"{served.url}/?tab=runs")
    shows(page, "poems", "tickets 10", "tickets 2", HOSTILE)
    expect(page.locator(".run-count")).to_contain_text("4 runs · ")
    search = page.get_by_label("Search runs")
    search.press_sequentially("TICK")
    shows(page, "tickets 10", "tickets 2")
    expect(page.locator(".run-count")).to_contain_text("2 of 4 runs")
    search.press_sequentially("ets 2")
    shows(page, "tickets 2")
    expect(search).to_be_focused()
    page.get_by_role("button", name="Disk").click()  # another order of one run
    expect(page.locator("#runs-table th[aria-sort]")).to_contain_text("Disk ▼")
    page.get_by_role("button", name="Started").click()
    expect(page.locator("#runs-table th[aria-sort]")).to_contain_text("Started ▼")
    page.reload()
    shows(page, "tickets 2")
    expect(search).to_have_value("TICKets 2")
    search.fill("nothing like this")
    expect(page.locator(".run-none")).to_have_text("No runs match.")
    page.get_by_role("button", name="Clear").click()
    shows(page, "poems", "tickets 10", "tickets 2", HOSTILE)

    page.get_by_label("All states").select_option("failed")
    shows(page, "tickets 10")
    page.get_by_label("All states").select_option("")
    page.get_by_label("All models").select_option("other/tiny-2")
    shows(page, "poems")
    page.get_by_label("All models").select_option("")
    page.get_by_label("All data").select_option("verse")
    shows(page, "poems")
    page.get_by_role("button", name="Clear").click()
    page.locator("#runs-table .tag", has_text="night").click()
    shows(page, "tickets 2")
    expect(page.get_by_label("All tags")).to_have_value("night")
    page.get_by_role("button", name="Clear").click()

    page.get_by_role("button", name="Loss").first.click()
    shows(page, "tickets 10", "tickets 2", "poems", HOSTILE)
    page.get_by_role("button", name="Name").click()
    expect(page.locator("#runs-table th[aria-sort]")).to_contain_text("Name ▲")
    shows(page, HOSTILE, "poems", "tickets 2", "tickets 10")
    page.get_by_role("button", name="Name").click()
    shows(page, "tickets 10", "tickets 2", "poems", HOSTILE)
    expect(page.locator("body")).not_to_contain_text("secret")
    expect(page.locator("body")).not_to_contain_text("hidden")


def test_a_link_opens_its_run_and_a_click_another(page: Page, home: Path, start: Start) -> None:
    served = start(home)
    page.goto(f"{served.url}/?run=id-tickets-2")
    opened(page, "tickets 2")
    for name in ("poems", "tickets 10", "tickets 2", "poems"):
        rows(page).filter(has_text=name).click()
        opened(page, name)
    page.reload()
    opened(page, "poems")
    page.goto(f"{served.url}/?run=id-secret")  # of somebody else: as if it were not there
    opened(page, "poems")
    expect(page.locator("body")).not_to_contain_text("secret")


def test_star_name_note_and_tags(page: Page, home: Path, start: Start) -> None:
    served = start(home)
    page.goto(f"{served.url}/?run=id-poems")
    opened(page, "poems")
    page.locator("#runs-table").get_by_label("Star poems").click()
    expect(page.locator("#run-about").get_by_label("Star poems")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="★ Starred").click()
    shows(page, "poems")
    page.get_by_role("button", name="★ Starred").click()

    page.locator("#run-about").get_by_role("button", name="Edit").click()
    dialog = page.locator("dialog")
    expect(dialog.get_by_label("Name")).to_be_focused()
    expect(dialog.get_by_label("Note")).to_have_value("about the sea")
    dialog.get_by_label("Name").fill("  ")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("A run needs a name")
    dialog.get_by_label("Name").fill("verses & <b>more</b>")
    dialog.get_by_label("Tags").fill("Sea, <script>alert(1)</script>")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The tag '<script>alert(1)</script>' cannot be used")
    dialog.get_by_label("Tags").fill("Sea, long  poems")
    dialog.get_by_label("Note").fill("two\nlines of <i>text</i>")
    dialog.get_by_label("Tags").press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#run-head h2")).to_have_text("verses & <b>more</b>")
    expect(page.locator("#runs-table tr.chosen")).to_contain_text("verses & <b>more</b>")
    expect(page.locator("#run-about .tag")).to_have_text(["sea", "long-poems"])
    expect(page.locator("#run-about .run-note")).to_have_text("two\nlines of <i>text</i>")
    told = read_json(home / "runs" / "id-poems" / "about.json") or {}
    assert (told["name"], told["tags"], told["starred"]) == ("verses & <b>more</b>", ["sea", "long-poems"], True)
    page.get_by_label("Search runs").fill("of <i>")
    shows(page, "verses & <b>more</b>")

    # By another program, while the page is open.
    served.cli("runs", "rename", "id-poems", "renamed of <i>")
    shows(page, "renamed of <i>")
    expect(page.locator("#run-head h2")).to_have_text("renamed of <i>")
    expect(page.locator("#runs-table img, #run-head img, #run-about i")).to_have_count(0)


def test_into_the_trash_back_and_gone(page: Page, home: Path, start: Start) -> None:
    served = start(home)
    page.goto(f"{served.url}/?run=id-poems")
    opened(page, "poems")
    page.locator("#run-about").get_by_role("button", name="Move to trash").click()
    expect(page.locator(".run-said")).to_contain_text("poems was moved to the trash.")
    opened(page, "tickets 10")
    shows(page, "tickets 10", "tickets 2", HOSTILE)
    page.get_by_role("button", name="Undo").click()
    opened(page, "poems")
    shows(page, "poems", "tickets 10", "tickets 2", HOSTILE)

    for name in ("poems", "tickets 2"):
        rows(page).filter(has_text=name).click()
        opened(page, name)
        page.locator("#run-about").get_by_role("button", name="Move to trash").click()
        expect(page.locator(".run-said")).to_contain_text(f"{name} was moved to the trash.")
        opened(page, "tickets 10")
    shows(page, "tickets 10", HOSTILE)
    page.get_by_role("button", name="Trash (2)").click()
    expect(page.locator(".run-count")).to_contain_text("2 runs in the trash · ")
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Restore tickets 2").click()
    shows(page, "poems")
    opened_head = page.locator("#run-head h2")
    expect(opened_head).to_have_text("tickets 2")

    page.get_by_role("button", name="Empty trash…").click()
    dialog = page.locator("dialog")
    expect(dialog).to_contain_text("Delete this run for good?")
    expect(dialog.locator("li")).to_have_text(re.compile(r"^poems[\d.]+ KiB$"))
    dialog.get_by_role("button", name="Keep").click()
    expect(dialog).to_be_hidden()
    assert (home / "runs" / "id-poems").is_dir()
    # What came in after the question was asked is not meant by the yes.
    page.get_by_role("button", name="Empty trash…").click()
    expect(dialog.locator("li")).to_have_count(1)
    served.cli("runs", "trash", "id-tickets-10")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".run-said")).to_have_text(re.compile(r"^1 run deleted, [\d.]+ KiB freed\.$"))
    shows(page, "tickets 2", HOSTILE)
    assert not (home / "runs" / "id-poems").exists() and (home / "runs" / "id-tickets-10").is_dir()
    expect(page.get_by_role("button", name="Trash (1)")).to_be_visible()
    page.goto(f"{served.url}/?run=id-tickets-10")
    expect(page.locator("#run-head")).to_contain_text("This run is in the trash")
    expect(page.locator("#resume-run")).to_be_hidden()
    page.locator("#run-about").get_by_role("button", name="Restore").click()
    opened(page, "tickets 10")


def test_a_long_list_is_turned_page_by_page(page: Page, tmp_path: Path, start: Start) -> None:
    home = tmp_path / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        for number in range(180):
            make(studio, f"run {number}", created=1000.0 + number, steps=1)
    page.goto(f"{start(home).url}/?tab=runs")
    page.get_by_role("button", name="Show 50 more").click()
    expect(rows(page)).to_have_count(100)
    expect(rows(page).first).to_have_text(re.compile("run 179"))
    expect(page.get_by_role("button", name="Previous 50")).to_be_hidden()
    page.get_by_role("button", name="Next 50 of 180").click()
    expect(rows(page).first).to_have_text(re.compile("run 129"))
    expect(rows(page)).to_have_count(100)
    page.get_by_role("button", name="Next 30 of 180").click()
    expect(rows(page)).to_have_count(80)
    expect(page.locator(".run-more")).to_be_hidden()
    page.get_by_role("button", name="Previous 50").click()
    expect(rows(page).first).to_have_text(re.compile("run 129"))
    page.get_by_label("Search runs").fill("run 17")
    expect(rows(page)).to_have_count(12)  # 17, 117 and 170 to 179
    expect(rows(page).first).to_have_text(re.compile("run 179"))


def test_opening_a_run_styles_no_row_anew(page: Page, tmp_path: Path, start: Start) -> None:
    """One rule whose `:has()` hides whatever is in a place had every change on the page style every element anew."""
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        for number in range(40):
            make(studio, f"run {number}", created=1000.0 * (number + 1))
    served = start(tmp_path / "home")
    page.goto(f"{served.url}/?tab=runs")
    for name in ("run 39", "run 20"):
        rows(page).get_by_text(name, exact=True).click()
        opened(page, name)
    expect(page.locator("#machine")).to_contain_text("free on disk")
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=["devtools.timeline"])
    rows(page).get_by_text("run 30", exact=True).click()
    opened(page, "run 30")
    events = json.loads(browser.stop_tracing())["traceEvents"]
    styled = [event["args"]["elementCount"] for event in events if "elementCount" in event.get("args", {})]
    cells = page.locator("#runs-table tbody td").count()
    assert styled and max(styled) < cells / 2, (styled, cells)


def test_the_list_moves_under_nobodys_hands(page: Page, tmp_path: Path, start: Start) -> None:
    """New runs and new figures come in; rows that did not change are the same nodes, focus and scroll stay."""
    home = tmp_path / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        for number in range(70):
            make(studio, f"run {number}", created=1000.0 + number, steps=1)
    served = start(home)
    page.goto(f"{served.url}/?tab=runs")
    expect(rows(page)).to_have_count(50)
    page.get_by_role("button", name="Show 20 more").click()
    expect(rows(page)).to_have_count(70)
    page.get_by_label("Search runs").fill("run")
    expect(page.locator(".run-count")).to_contain_text("70 of 70 runs")
    page.get_by_role("button", name="Show 20 more").click()
    expect(rows(page)).to_have_count(70)
    row = rows(page).filter(has_text=re.compile("^run 30$"))
    row.scroll_into_view_if_needed()
    row.focus()
    page.evaluate("for (const row of document.querySelectorAll('#runs-table tbody tr')) row.mine = true")
    place = "document.querySelector('.run-scroll').scrollTop"
    scrolled = page.evaluate(place)
    assert scrolled > 0
    about = home / "runs" / "id-run-29" / "about.json"
    write_json(about, (read_json(about) or {}) | {"tags": ["fresh"]})
    expect(page.locator("#runs-table .tag")).to_have_text("fresh")
    expect(row).to_be_focused()
    assert page.evaluate(place) == scrolled
    assert page.evaluate("[...document.querySelectorAll('#runs-table tbody tr')].every((row) => row.mine)")
    expect(page.get_by_label("Search runs")).to_have_value("run")
    # A row above that goes takes nothing with it.
    served.cli("runs", "trash", "id-run-69")
    expect(rows(page)).to_have_count(69)
    expect(row).to_be_focused()
    assert page.evaluate("[...document.querySelectorAll('#runs-table tbody tr')].every((row) => row.mine)")


def test_by_keyboard_and_on_a_narrow_screen(page: Page, home: Path, start: Start) -> None:
    served = start(home)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{served.url}/?tab=runs")
    shows(page, "poems", "tickets 10", "tickets 2", HOSTILE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Sort by").select_option("name")
    shows(page, HOSTILE, "poems", "tickets 2", "tickets 10")
    rows(page).filter(has_text="tickets 2").focus()
    page.keyboard.press("Enter")
    opened(page, "tickets 2")
    expect(page.locator("#run-head h2")).to_be_in_viewport()
    star = page.locator("#runs-table").get_by_label("Star tickets 2")
    star.focus()
    assert star.evaluate("(star) => getComputedStyle(star).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(page.locator("#run-about").get_by_label("Star tickets 2")).to_have_attribute("aria-pressed", "true")
    expect(star).to_be_focused()
    page.locator("#run-about").get_by_role("button", name="Edit").click()
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().right <= innerWidth")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
