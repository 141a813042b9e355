"""The training form: what applies is shown, what would fit is one click away, recipes come and go."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from studio.recipe import Recipe
from tests.e2e.conftest import Served
from tests.e2e.test_whole_path import tab

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]


def choose(page: Page, field: str, option: str) -> None:
    page.locator(f"#field-{field} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_the_form_shows_what_applies_to_the_method(page: Page, little_home: Path, start: Start) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    expect(page.locator("#field-r")).to_be_visible()
    expect(page.locator("#scale")).to_contain_text("2: the adapter's update")
    choose(page, "method", "ia3")
    expect(page.locator("#field-r")).to_be_hidden()
    expect(page.locator("#field-lora_alpha")).to_be_hidden()
    expect(page.locator("#field-learning_rate")).to_be_visible()
    page.locator("#advanced").get_by_role("button", name="Data").click()
    expect(page.locator("#field-template")).to_be_visible()
    expect(page.locator("#field-custom_template")).to_be_hidden()
    choose(page, "template", "custom")
    expect(page.locator("#field-custom_template")).to_be_visible()
    expect(page.locator("#estimate")).to_contain_text("template custom needs custom_template")
    choose(page, "template", "chat")
    expect(page.locator("#field-custom_template")).to_be_hidden()
    choose(page, "method", "full")
    choose(page, "quantization", "nf4")
    expect(page.locator("#estimate")).to_contain_text("quantization nf4 freezes them")
    expect(page.locator("#start-training")).to_be_disabled()


def test_nothing_moves_under_the_pointer_once_the_tab_is_there(page: Page, little_home: Path, start: Start) -> None:
    """What answers later, such as how many parameters the layers have, takes the place that was kept for it."""
    page.goto(start(little_home).url)
    expect(page.get_by_role("heading", name="little", exact=True)).to_be_visible()
    page.evaluate(
        """() => {
            window.places = [];
            const look = () => {
                const fold = document.querySelector("#advanced");
                if (fold?.offsetParent) places.push(Math.round(fold.getBoundingClientRect().top + scrollY));
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    tab(page, "Train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    expect(page.locator("#scale")).to_contain_text("2: the adapter's update")
    expect(page.locator("#field-target_modules")).to_contain_text("all-linear (")
    places = page.evaluate("places")
    assert max(places) - min(places) <= 3, sorted(set(places))


def test_what_does_not_fit_is_changed_by_a_click(page: Page, little_home: Path, start: Start) -> None:
    """A known model of 141 GB in 16 bits is asked about by its hub id, without downloading it."""
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("batches of up to")
    page.locator("#field-model input").fill("meta-llama/Llama-3.1-70B")
    page.locator("#field-model input").press("Enter")
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("Does not fit")
    before = estimate.locator(".verdict").inner_text()
    estimate.locator(".fix", has_text="gradient_checkpointing").click()
    expect(page.locator("#changed-fields")).to_contain_text("gradient_checkpointing true")
    expect(estimate.locator(".verdict")).not_to_have_text(before)


def test_presets_say_what_they_take_here(page: Page, little_home: Path, start: Start) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    page.locator("#field-preset input").click()
    expect(page.get_by_role("option", name="Balanced")).to_contain_text("MiB")


def test_what_is_typed_behind_a_preset_stays(page: Page, little_home: Path, start: Start) -> None:
    """However late an answer comes: each that is asked for the preset after the first one waits here."""
    asked: list[Route] = []

    def first_only(route: Route) -> None:
        if '["sample"]' not in (route.request.post_data or "").replace(" ", ""):
            return route.fallback()
        asked.append(route)
        return route.continue_() if len(asked) == 1 else None

    page.route("**/run/predict**", first_only)
    page.goto(f"{start(little_home).url}/?tab=train")
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("Fits")
    trainable = estimate.inner_text()
    page.locator("#field-preset input").click()
    page.get_by_role("option", name=re.compile("Train the sample")).click()
    expect(page.locator("#field-per_device_train_batch_size input")).to_have_value("8")
    rank = page.locator("#field-r input").first
    rank.fill("32")
    rank.blur()
    for late in asked[1:]:
        with page.expect_response(lambda response, late=late: response.request == late.request):
            late.continue_()
    expect(page.locator("#changed-fields")).to_contain_text(re.compile(r"r\s+32"))
    expect(estimate).not_to_have_text(trainable)
    assert (len(asked), rank.input_value()) == (1, "32")


def test_a_preset_is_chosen_by_keyboard_and_again(page: Page, little_home: Path, start: Start) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    presets, batch = page.locator("#field-preset input"), page.locator("#field-per_device_train_batch_size input")
    presets.press("Enter")
    presets.press("ArrowDown")
    while "Train the sample" not in page.locator(".options .active").inner_text():
        presets.press("ArrowDown")
    presets.press("Enter")
    expect(batch).to_have_value("8")
    batch.fill("3")
    batch.blur()
    expect(page.locator("#changed-fields")).to_contain_text(re.compile(r"batch_size\s+3"))
    presets.click()
    page.get_by_role("option", name=re.compile("Train the sample")).click()
    expect(batch).to_have_value("8")


def test_a_recipe_is_opened_and_a_wrong_one_changes_nothing(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(Recipe().with_values({"model": "tiny", "dataset": "little", "r": 8}).to_yaml())
    bad.write_text("method:\n  rank: 4\n")
    page.locator("#open-recipe input[type=file], input[type=file][accept*=yaml]").first.set_input_files(good)
    expect(page.locator("#field-r input").first).to_have_value("8")
    page.locator("#open-recipe input[type=file], input[type=file][accept*=yaml]").first.set_input_files(bad)
    expect(page.get_by_role("alert").first).to_contain_text("method.rank is not a recipe field")
    expect(page.locator("#field-r input").first).to_have_value("8")


def test_a_run_is_cloned_into_the_form_and_the_draft_survives_a_reload(
    page: Page, little_home: Path, start: Start
) -> None:
    served = start(little_home)
    run = str(
        served.cli("train", "--model", "tiny", "--dataset", "little", "--set", "max_steps=2", "--set", "r=4")["id"]
    )
    deadline = time.monotonic() + 300
    while not (little_home / "runs" / run / "exit.json").exists():
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.2)
    page.goto(f"{served.url}/?run={run}")
    page.locator("#clone-run").click()
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#field-r input").first).to_have_value("4")
    expect(page.locator("#changed-fields")).to_contain_text("max_steps 2")
    page.goto(f"{served.url}/?tab=train")
    expect(page.locator("#field-r input").first).to_have_value("4")
    tab(page, "Runs")


def test_attention_only_names_the_models_own_layers(page: Page, little_home: Path, start: Start) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    page.locator("#field-target_modules input").click()
    expect(page.get_by_role("option", name="q_proj")).to_contain_text("q_proj (2 × ")
    page.get_by_role("option", name="attention only").click()
    expect(page.locator("#changed-fields")).to_contain_text("target_modules k_proj,o_proj,q_proj,v_proj")
    expect(page.locator("#field-target_modules .token")).to_have_count(4)


def test_a_dry_run_measures_what_the_estimate_then_says(page: Page, little_home: Path, start: Start) -> None:
    page.goto(f"{start(little_home).url}/?tab=train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    page.locator("#dry-run").click()
    expect(page.locator("#dry-run-progress")).to_contain_text("Training on the longest examples", timeout=300_000)
    expect(page.locator("#estimate")).to_contain_text("Measured in a dry run", timeout=300_000)
    expect(page.locator("#estimate")).to_contain_text("The time is measured in a dry run")
    expect(page.locator("#dry-run-cancel")).to_be_hidden()
    page.locator("#field-per_device_train_batch_size input").first.fill("2")
    expect(page.locator("#estimate")).to_contain_text("Corrected by a dry run of a similar recipe")
    assert list((little_home / "runs").iterdir()) == []

    # Given up half-way, nothing of it is left.
    page.locator("#dry-run").click()
    expect(page.locator("#dry-run-cancel")).to_be_visible()
    page.locator("#dry-run-cancel").click()
    expect(page.locator("#train-notice")).to_contain_text("Cancelled")
    assert list((little_home / "staging").iterdir()) == []


def test_an_older_estimate_does_not_come_over_a_newer_one(page: Page, little_home: Path, start: Start) -> None:
    """What opening the tab asks for is answered late, after what was typed meanwhile."""
    page.goto(start(little_home).url)
    expect(page.get_by_role("heading", name="little", exact=True)).to_be_visible()
    tab(page, "Train")
    expect(page.locator("#estimate")).to_contain_text("Fits")
    page.locator("#advanced").get_by_role("button", name="Schedule").click()
    tab(page, "Runs")
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        told = route.request.post_data_json or {}
        if len(told.get("data", [])) > 20:  # the whole form
            waiting.append(route)
        else:
            route.continue_()

    page.route("**/gradio_api/run/**", hold)
    tab(page, "Train")
    while not waiting:
        page.wait_for_event("request")
    steps = page.locator("#field-max_steps input").first
    steps.fill("2")
    steps.blur()
    page.wait_for_timeout(500)  # for what it asks, where it does
    while waiting:
        route = waiting.pop()
        with page.expect_request_finished(lambda request, late=route.request: request == late):
            route.continue_()
    page.unroute("**/gradio_api/run/**")
    for route in waiting:
        route.continue_()
    page.wait_for_timeout(500)  # an answer that is late is there by now
    expect(page.locator("#estimate")).to_contain_text(re.compile(r"2\s*steps"))
    expect(steps).to_have_value("2")


def test_a_late_answer_leaves_what_was_typed_meanwhile(page: Page, little_home: Path, start: Start) -> None:
    """Nothing that opening the tab asks of the server may come back over the user's own words."""
    page.goto(start(little_home).url)
    expect(page.get_by_role("heading", name="little", exact=True)).to_be_visible()
    opened = page.get_by_role("tab", name="Train", exact=True)
    page.locator("#train-on").click()
    expect(opened).to_have_attribute("aria-selected", "true")
    tab(page, "Runs")
    waiting: list[Route] = []
    page.route("**/gradio_api/run/**", lambda route: waiting.append(route))
    tab(page, "Train")
    page.locator("#advanced").get_by_role("button", name="Schedule").click()
    steps = page.locator("#field-max_steps input").first
    steps.fill("2")
    steps.blur()
    assert waiting
    while waiting:  # the last first; what an answer asks in its turn is held back too
        route = waiting.pop()
        with page.expect_request_finished(lambda request, late=route.request: request == late):
            route.continue_()
    page.unroute("**/gradio_api/run/**")
    for route in waiting:
        route.continue_()
    expect(page.locator("#estimate")).to_contain_text(re.compile(r"2\s*steps"))
    expect(steps).to_have_value("2")
