"""Export, import and give away in a real browser: a zip comes back as an adapter that answers; a script is taken; a
stranger's pickle is refused; an export is shown before it is published, and published on a hub of our own."""

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from studio.rundir import write_json
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.artefacts import adapter_run
from tests.e2e.conftest import Served
from tests.e2e.test_export import WORKS, choose
from tests.hub import TOKEN, served

pytestmark = pytest.mark.browser


@pytest.fixture
def home(little_home: Path, tiny: Path) -> Path:
    """A home with a run that is over, on the dataset that is there."""
    run = adapter_run(little_home / "runs" / "one", tiny)
    write_json(run.path / "worker.json", {"versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "trl": "1.16.0"}})
    with Keeper(Settings(home=little_home, offline=True)) as studio:
        found = next(studio.settings.datasets.iterdir())
        write_json(run.dataset, {"id": found.name, "name": "little", "sha256": found.name, "path": str(found)})
        studio.look()
    return little_home


def test_a_zip_comes_back_and_answers(page: Page, home: Path, start: Callable[[Path], Served], tmp_path: Path) -> None:
    page.goto(f"{start(home).url}/?tab=export")
    choose(page, "#export-run-choice", re.compile("^one, step"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Script").click()
    assert "# /// script" in Path(download.value.path()).read_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Everything as a zip").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        assert "one/train.jsonl" in packed.namelist()

    page.locator("#export-adapter").click()
    done = page.locator("#exports-done section")
    expect(done.locator(".parity")).to_contain_text("logits correlate", timeout=WORKS)
    with page.expect_download() as download:
        done.get_by_role("link", name=re.compile("Download")).click()
    download.value.save_as(tmp_path / "theirs.zip")

    page.locator("#import-zip input[type=file]").set_input_files(tmp_path / "theirs.zip")
    page.locator("#import-name input, #import-name textarea").first.fill("came back")
    expect(page.locator("#import-zip")).to_contain_text("theirs")
    page.locator("#import-go").click()
    expect(page.locator("#import-notice")).to_contain_text("came back was imported", timeout=WORKS)
    made = page.locator("#adapters-store section")
    expect(made).to_contain_text("from theirs.zip")
    made.get_by_role("button", name="Try in Compare").click()
    expect(page.locator("#side-2 input")).to_have_value("came back, imported")
    expect(page.locator("#answers")).to_contain_text("came back, imported")  # the tab has settled
    page.locator("#question textarea").fill("Hello")
    page.locator("#ask").click()
    expect(page.locator(".turn").first.locator("article").nth(1)).to_contain_text("tokens/s", timeout=WORKS)


def test_a_pickle_is_refused(page: Page, home: Path, start: Callable[[Path], Served], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as out:
        out.writestr("adapter_config.json", "{}")
        out.writestr("adapter_model.bin", pickle.dumps([1]))
    page.goto(f"{start(home).url}/?tab=export")
    page.locator("#import-zip input[type=file]").set_input_files(tmp_path / "evil.zip")
    expect(page.locator("#import-zip")).to_contain_text("evil")
    page.locator("#import-go").click()
    expect(page.locator("#import-notice")).to_contain_text("adapter_model.bin in evil.zip is a pickle", timeout=WORKS)
    assert not list((home / "staging").iterdir())


def test_an_export_is_shown_and_then_published(
    page: Page, home: Path, start: Callable[[Path], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # A studio that may go out; the hub it knows is this machine's.
        monkeypatch.setenv("STUDIO_OFFLINE", "0")
        page.goto(f"{start(home).url}/?tab=export")
        page.locator("#export-adapter").click()
        done = page.locator("#exports-done section")
        expect(done.locator(".parity")).to_contain_text("logits correlate", timeout=WORKS)
        expect(page.locator("#publish")).to_be_hidden()
        done.get_by_role("button", name="Publish").click()
        what = page.locator("#publish-what")
        expect(what).to_contain_text("adapter_model.safetensors")
        expect(what).to_contain_text("private")
        name = page.locator("#publish-repo input, #publish-repo textarea").first
        expect(name).to_have_value("one-step-12-adapter")  # what is proposed has arrived
        name.fill("me/sums")
        expect(what).to_contain_text("/me/sums")
        page.locator("#publish-token input").fill(TOKEN)
        page.locator("#publish-go").click()
        expect(page.locator("#publish-notice")).to_contain_text("/me/sums, private", timeout=WORKS)
        expect(page.locator("#publish-token input")).to_have_value("")
        assert hub.repos["me/sums"]["private"] and "adapter_model.safetensors" in hub.files("me/sums")
        assert json.loads(hub.files("me/sums")["adapter_config.json"])["peft_type"] == "LORA"
    found = [path for path in home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert not found
