"""Export in a real browser: adapter and merged with progress, download and delete; two adapters combined and asked."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from studio.launch import gguf_tools
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.artefacts import adapter_run, real_words
from tests.e2e.conftest import Served
from tests.integration.test_gguf import TOOLS

pytestmark = pytest.mark.browser
WORKS = 600_000  # ms; a worker imports torch, and a busy machine is no failure


@pytest.fixture
def home(little_home: Path, tiny: Path) -> Path:
    """A home with two runs that are over."""
    for number, name in enumerate(("one", "two")):
        adapter_run(little_home / "runs" / name, tiny, number)
    with Keeper(Settings(home=little_home, offline=True)) as studio:
        studio.look()
    return little_home


def choose(page: Page, box: str, label: str | re.Pattern[str]) -> None:
    page.locator(f"{box} input").click()
    page.locator(box).get_by_role("option", name=label).click()


def test_export_download_and_delete(page: Page, home: Path, start: Callable[[Path], Served], tmp_path: Path) -> None:
    page.goto(f"{start(home).url}/?tab=export")
    choose(page, "#export-run-choice", re.compile("^one, step"))
    page.locator("#export-adapter").click()
    expect(page.locator("#card-adapter .doing")).to_be_visible()
    done = page.locator("#exports-done section")
    expect(done.locator(".parity")).to_contain_text("logits correlate", timeout=WORKS)
    expect(done).to_contain_text("identical answers")
    with page.expect_download() as download:
        done.get_by_role("link", name=re.compile("Download")).click()
    download.value.save_as(tmp_path / "adapter.zip")
    with zipfile.ZipFile(tmp_path / "adapter.zip") as packed:
        assert "one/adapter_model.safetensors" in packed.namelist()

    page.locator("#export-merged").click()
    expect(page.locator("#card-merged .doing")).to_be_visible()
    merged = done.filter(has_text="Merged model")
    expect(merged.locator(".parity")).to_contain_text("transformers", timeout=WORKS)
    with page.expect_download() as download:
        merged.get_by_role("link", name=re.compile("Download")).click()
    download.value.save_as(tmp_path / "merged.zip")
    with zipfile.ZipFile(tmp_path / "merged.zip") as packed:
        assert packed.testzip() is None
        assert {"one-merged/model.safetensors", "one-merged/README.md", "one-merged/config.json"} <= set(
            packed.namelist()
        )

    merged.locator("summary").click()
    merged.get_by_role("button", name="Delete this export now").click()
    expect(merged).to_have_count(0)
    expect(done).to_have_count(1)
    page.reload()
    expect(done).to_have_count(1)


def test_an_export_is_cancelled(page: Page, home: Path, start: Callable[[Path], Served]) -> None:
    page.goto(f"{start(home).url}/?tab=export")
    page.locator("#export-merged").click()
    page.locator("#card-merged").get_by_role("button", name="Cancel").click()
    done = page.locator("#exports-done section")
    expect(done).to_contain_text("nothing was exported", timeout=WORKS)
    expect(done.get_by_role("button", name="Start again")).to_be_visible()
    expect(page.locator("#export-merged")).to_be_enabled()


def test_two_adapters_become_one_and_it_answers(page: Page, home: Path, start: Callable[[Path], Served]) -> None:
    page.goto(f"{start(home).url}/?tab=export")
    choose(page, "#combine-0", re.compile("^one, step"))
    choose(page, "#combine-1", re.compile("^two, step"))
    page.locator("#combine-weight-0 input").fill("0.7")
    page.locator("#combine-weight-1 input").fill("0.3")
    page.locator("#combine-name input, #combine-name textarea").first.fill("both")
    page.locator("#combine-go").click()
    made = page.locator("#adapters-store section")
    expect(made).to_contain_text("0.7 × one, step 12 + 0.3 × two, step 12, cat", timeout=WORKS)
    made.get_by_role("button", name="Try in Compare").click(timeout=WORKS)
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#side-2 input")).to_have_value("both, draft")
    expect(page.locator("#answers")).to_contain_text("both, draft")  # the tab has settled
    page.locator("#question textarea").fill("Hello")
    page.locator("#ask").click()
    answers = page.locator(".turn").first.locator("article")
    expect(answers.nth(1)).to_contain_text("tokens/s", timeout=WORKS)
    page.get_by_role("tab", name="Export", exact=True).click()
    made.get_by_role("button", name="Keep").click()
    expect(made).to_contain_text("combined")
    choose(page, "#export-run-choice", re.compile("^both"))
    expect(page.locator("#card-adapter h3")).to_contain_text("Adapter")


@pytest.mark.skipif(not gguf_tools.present(TOOLS, "llama"), reason="llama.cpp is not here: set STUDIO_GGUF_TOOLS")
def test_a_gguf_with_its_modelfile(
    page: Page, little_home: Path, sample_model: Path, start: Callable[[Path], Served], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from studio.services.models import models

    monkeypatch.setenv("STUDIO_GGUF_TOOLS", str(TOOLS))
    words = real_words(tmp_path / "words", sample_model)
    with Keeper(Settings(home=little_home, offline=True)) as studio:
        models.add(studio, str(words), lambda *_: None)
        adapter_run(little_home / "runs" / "one", words, model="words")
        studio.look()
    page.goto(f"{start(little_home).url}/?tab=export")
    page.locator("#export-gguf").click()
    done = page.locator("#exports-done section")
    expect(done.locator(".parity")).to_contain_text("llama.cpp", timeout=WORKS)
    with page.expect_download() as download:
        done.get_by_role("link", name=re.compile("Download one-Q8_0.gguf")).click()
    assert Path(download.value.path()).read_bytes()[:4] == b"GGUF"
    with page.expect_download() as download:
        done.get_by_role("link", name="Modelfile").click()
    assert "FROM ./one-Q8_0.gguf" in Path(download.value.path()).read_text()
