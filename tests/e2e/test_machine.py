"""The machine view in a real browser."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Served

pytestmark = pytest.mark.browser


def test_the_machine_over_time_and_whose_memory_it_is(
    start: Callable[[Path], Served], page: Page, tmp_path: Path
) -> None:
    served = start(tmp_path / "home")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/machine?" in request.url else None)
    page.goto(f"{served.url}/?tab=runs")
    fold = page.locator("#machine-fold > .label-wrap, #machine-fold button").first
    expect(fold).to_be_visible()
    assert not asked  # nothing is asked for what nobody looks at
    fold.click()
    view = page.locator(".machine-view")
    expect(view.locator("canvas").first).to_be_visible()
    expect(view.locator("figure", has_text="Memory").first.locator("output")).to_contain_text("GiB of")
    expect(view.locator("figure", has_text="Processor").locator("output")).to_contain_text("%")
    expect(view.locator(".holders li", has_text=re.compile("^The studio"))).to_contain_text("GiB")
    expect(view.locator(".holders li", has_text=re.compile(r"(?<!\d)0\.0 GiB"))).to_have_count(
        0
    )  # what holds little is told in MiB
    count = page.evaluate("document.querySelectorAll('.machine-view canvas').length")
    before = len(asked)
    with page.expect_request(lambda request: "/machine?after=" in request.url):
        pass
    assert len(asked) > before
    expect(view.locator("canvas")).to_have_count(count)
    page.get_by_role("tab", name="Train").click()
    expect(view).to_be_hidden()
