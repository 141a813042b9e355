"""Data → train → compare → export in a real browser, with the real sample model and a short real training.

`make pictures` trains as long as the sample's preset says, and keeps the pictures that README and docs show.
"""

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import Served

pytestmark = pytest.mark.browser
TRAINS = 900_000  # ms; minutes on a busy machine, and no shorter wait makes it more right


PICTURES = os.environ.get("STUDIO_PICTURES", "")  # the folder that pictures are written to; without one, none are


def picture(page: Page, name: str, last: Locator) -> None:
    """Photograph the page from its top down to the element `last`, where pictures are wanted."""
    expect(last).to_be_visible()
    if not PICTURES:
        return
    before, box = page.viewport_size, last.bounding_box()
    assert before is not None and box is not None
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.set_viewport_size({"width": before["width"], "height": int(box["y"] + box["height"]) + 24})
    page.screenshot(path=Path(PICTURES) / f"{name}.png", animations="disabled")
    page.set_viewport_size(before)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def set_number(page: Page, name: str, value: str) -> None:
    box = page.locator(f"#field-{name} input").first
    box.fill(value)
    box.blur()


@pytest.mark.timeout(2700)  # real training, answers and exports in 16 bits, which some processors only emulate
def test_the_whole_path(page: Page, sample_home: Path, start: Callable[[Path], Served], tmp_path: Path) -> None:
    served = start(sample_home)
    page.goto(served.url)

    # Data: the sample is there, and what the model sees of it.
    expect(page.get_by_role("heading", name="tickets", exact=True)).to_be_visible()
    tokens = page.locator(".tokens")
    expect(tokens).to_contain_text("<|im_start|>assistant")
    trained = "".join(tokens.locator(".tok-trained").all_inner_texts())
    assert trained.startswith('{"product"') and "<|im_end|>" in trained

    # Train: the sample preset, shortened; the estimate follows an edit.
    tab(page, "Train")
    page.locator("#field-preset input").click()
    page.get_by_role("option", name=re.compile("Train the sample")).click()
    expect(page.locator("#field-per_device_train_batch_size input")).to_have_value("8")
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("Fits")
    expect(estimate).to_contain_text("4.9 M")
    before = estimate.inner_text()
    set_number(page, "r", "32")
    expect(estimate).to_contain_text("9.8 M")
    assert estimate.inner_text() != before
    set_number(page, "r", "16")
    if not PICTURES:  # they show the preset's own length
        page.locator("#advanced").get_by_role("button", name="Schedule").click()
        set_number(page, "max_steps", "8")
        expect(estimate).to_contain_text(re.compile(r"(?<!\d)8\s*steps"))
    steps = int(re.findall(r"(\d+)\s*steps", estimate.inner_text())[0])
    page.locator("#start-training").click()

    # Runs: it opens by itself, the curve follows, it completes.
    expect(page.get_by_role("tab", name="Runs", exact=True)).to_have_attribute("aria-selected", "true")
    bar = page.locator("#open-run")
    expect(bar).to_contain_text("tickets-1")
    expect(page.locator("#curves canvas").first).to_be_visible(timeout=TRAINS)

    # The first run's end opens Compare; what it was is still to be seen in Runs.
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute(
        "aria-selected", "true", timeout=TRAINS
    )
    tab(page, "Runs")
    expect(bar.locator(".state-completed")).to_be_visible()
    expect(bar).to_contain_text(re.compile(rf"{steps}\s+of {steps}"))
    for panel in ("Gradient norm", "Tokens/s", "Memory"):
        expect(page.locator("#curves")).to_contain_text(panel)
    picture(page, "runs", page.locator("#curves"))
    run = next(iter(served.cli("runs")["runs"]))  # type: ignore[call-overload]
    assert (run["state"], run["step"], run["name"]) == ("completed", steps, "tickets-1")
    assert run["loss"] < 2.5

    # Compare: a held-out message is ready; both answers stream side by side.
    tab(page, "Compare")
    expect(page.locator("#question textarea")).to_have_value(re.compile("intercom"))
    page.locator("#ask").click()
    expect(page.locator("#ask")).to_be_hidden()
    expect(page.locator("#ask")).to_be_visible(timeout=TRAINS)
    answers = page.locator(".turn").first.locator("article")
    expect(answers).to_have_count(2)
    expect(answers.nth(0)).to_contain_text("tokens/s")
    expect(answers.nth(1)).to_contain_text("tokens/s")
    base, adapted = answers.locator(".said").all_inner_texts()
    assert base.strip() and adapted.strip() and base != adapted
    expect(page.locator(".turn").first).to_contain_text("Turn the customer's message into a support ticket.")
    expect(answers.nth(0)).to_contain_text("Base")
    expect(answers.nth(1)).to_contain_text("tickets-1")
    picture(page, "compare", page.locator("#memory-row"))

    # Export: the adapter as a zip, the merged model proved against the adapted one.
    tab(page, "Export")
    page.locator("#export-adapter").click()
    with page.expect_download(timeout=TRAINS) as download:
        page.get_by_role("link", name=re.compile("Download")).first.click(timeout=TRAINS)
    path = tmp_path / "adapter.zip"
    download.value.save_as(path)
    with zipfile.ZipFile(path) as zipped:
        names = {Path(name).name for name in zipped.namelist()}
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "tokenizer.json"} <= names
        config = next(name for name in zipped.namelist() if name.endswith("adapter_config.json"))
        told = json.loads(zipped.read(config))
        assert (told["r"], told["base_model_name_or_path"]) == (16, "HuggingFaceTB/SmolLM2-135M-Instruct")
    page.locator("#export-merged").click()
    expect(page.locator("#export .parity")).to_contain_text("logits correlate", timeout=TRAINS)

    # A reload comes back to the same place.
    page.reload()
    expect(page.get_by_role("tab", name="Export", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#export .parity")).to_contain_text("logits correlate")
