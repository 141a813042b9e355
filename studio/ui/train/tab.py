"""The Train tab: the form on the left, the estimate and Start on the right. Every edit updates the estimate."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.recipe.fields import Method
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.host import machine, warm
from studio.services.planning import dry_runs, estimates, presets
from studio.services.runs import run_list, runs
from studio.ui.gradio_compat import once
from studio.ui.parts import busy, markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates, view, with_notice, with_notice_while
from studio.ui.train import form, model_box, panel

_FIRST = (
    "Nothing has been trained here yet",
    "A small model learns to turn customers' messages into tickets. Then you compare it with its base model.",
)

_CHANGED = "() => { document.dispatchEvent(new Event('studio-form')); }"
_ON_CHANGED = "document.addEventListener('studio-form', () => trigger('submit'));"


@dataclass(frozen=True)
class TrainTab:
    """What other tabs need: the run last started here, and the steps that update the form and the estimate.

    update makes the page request the estimate for the form's current values. recall fills the form from the draft saved
    in this browser, the first time only; reopen: updates the available choices.
    """

    form: form.Form
    draft: gr.BrowserState
    started: gr.State
    recall: Step
    reopen: Step
    update: Step


def waker() -> gr.HTML:
    """An invisible component whose `submit` fires on `update`; outside the tab, so that it exists before the tab."""
    return gr.HTML(js_on_load=_ON_CHANGED, elem_id="form-waker", apply_default_css=False)


def build(studio: Studio, changed: gr.HTML) -> TrainTab:
    """Build the tab's components and wire their events. changed: the waker."""
    draft = gr.BrowserState({}, storage_key="lora-studio-draft", secret="draft of the form")  # noqa: S106 - no secret
    started = gr.State("")
    with gr.Row(elem_id="first-visit", equal_height=False):
        first = view("first-words")
        fetching = view("sample-progress")
        sample = gr.Button(
            f"Train the sample ({_how_long(studio)} here)", variant="primary", size="lg", elem_id="train-sample"
        )
    with gr.Row(elem_id="train-columns", equal_height=False):
        with gr.Column(scale=7, min_width=300, elem_id="train-form"):
            recipe_form = form.build(studio)
        with gr.Column(scale=4, min_width=300, elem_id="train-side"):
            with gr.Column(elem_id="train-side-scroll"):
                estimate = view("estimate", picks=True)
                accuracy = view("estimate-error")
                chips = view("changed-fields", picks=True)
                with gr.Accordion("Recipe and command", open=False, elem_classes="fold"):
                    document = view("recipe-text")
            with gr.Column(elem_id="start-box"):
                notice = view("train-notice")
                trying = busy.build("dry-run")
                with gr.Row(elem_id="start-row"):
                    start = gr.Button("Start training", variant="primary", size="lg", elem_id="start-training", scale=3)
                    dry = gr.Button("Dry run", size="lg", elem_id="dry-run", scale=1, min_width=110)

    names, fields = list(recipe_form.fields), list(recipe_form.fields.values())
    modules = recipe_form.fields["target_modules"]
    # A first value, so that the first update does not move the content below it.
    recipe_form.scale.value = panel.derived(form.defaults(), Method())
    shown = [estimate, chips, document, recipe_form.scale, start, draft]

    def edited(*values: Any) -> Updates:
        """Update the estimate, the recipe and the Start button for the form's current values."""
        warm.expect(studio)
        typed = form.as_typed(names, values)
        try:
            recipe = form.read(names, values)
            estimate_html = panel.estimate(estimates.estimate(studio, recipe), recipe)
        except StudioError as error:
            return {
                estimate: markup.problem(access.for_reader(studio, error)),
                chips: panel.touched(typed),
                recipe_form.scale: panel.derived(typed),
                start: gr.update(interactive=False),
                draft: typed,
            }
        return {
            estimate: estimate_html,
            chips: panel.touched(typed),
            document: panel.document(recipe, typed),
            recipe_form.scale: panel.derived(typed, recipe.method),
            start: gr.update(interactive=True),
            draft: typed,
        }

    def fill(values: dict[str, Any]) -> Updates:
        return {
            recipe_form.fields[name]: form.for_form(name, value)
            for name, value in values.items()
            if name in recipe_form.fields
        }

    def choose_preset(chosen: str | None) -> Updates:
        preset = next((preset for preset in presets.list_presets(studio) if preset.id == chosen), None)
        if preset is None:
            return {recipe_form.preset_why: ""}
        return {recipe_form.preset_why: markup.note(preset.why)} | fill(_kept(form.defaults()) | preset.values)

    def open_recipe(path: str) -> Updates:
        """Fill the form from a recipe file; nothing changes if it is not a valid recipe."""
        try:
            return fill(form.values_of(Recipe.load(Path(path))))
        finally:
            Path(path).unlink(missing_ok=True)

    def price(model: str, dataset: str) -> Updates:
        return {recipe_form.preset: gr.update(choices=form.presets_of(studio, model, dataset))}

    def choose_model(model: str) -> Updates:
        try:
            return {modules: gr.update(choices=form.modules_of(studio, model))}
        except StudioError:
            return {modules: gr.skip()}  # the estimate reports the missing model

    def choose_modules(chosen: list[str], model: str) -> Updates:
        """all-linear is exclusive: choosing it clears the others, choosing another clears it."""
        if chosen[-1:] == [form.ATTENTION]:
            return {modules: form.attention_of(studio, model)}
        exclusive = chosen[-1:] == ["all-linear"] or not chosen
        return {modules: ["all-linear"] if exclusive else [name for name in chosen if name != "all-linear"]}

    def reset(event: gr.EventData) -> Updates:
        default_values, name = form.defaults(), getattr(event, "reset", None)
        return fill({name: default_values[name]}) if name in default_values else {}

    def apply(event: gr.EventData) -> Updates:
        """Apply one of the changes that would make it fit."""
        return fill(json.loads(event.fix)) if hasattr(event, "fix") else {}

    def begin(*values: Any) -> Updates:
        run = runs.start(studio, form.read(names, values))
        return {started: run.id, recipe_form.fields["name"]: ""}

    def rehearse(request: gr.Request, *values: Any) -> Iterator[Updates]:
        """Run a few steps on the longest examples; the estimate then shows their measured memory and time."""
        recipe = form.read(names, values)
        yield {notice: ""}
        yield from trying.follow(request, "Starting the worker", dry_runs.running(studio, recipe))

    def begin_sample() -> Iterator[Updates]:
        """Fetch the sample's model if it is missing, then start the sample's run."""
        values = _sample(studio)
        yield {notice: "", sample: gr.update(interactive=False)}
        if values["model"] not in form.names_of("model", studio):
            for text in model_box.arriving(studio, values["model"]):
                yield {fetching: text}
        yield {fetching: "", started: runs.start(studio, Recipe().with_values(values)).id}

    def use_model(model: str) -> Updates:
        names = form.names_of("model", studio)
        return {recipe_form.fields["model"]: gr.update(choices=names, value=form.first(model, names))} | choose_model(
            model
        )

    def open_tab(model: str, dataset: str) -> Updates:
        """Update the available choices. A valid selection is not sent again, since the user may change it meanwhile."""
        updates: Updates = {}
        for name, chosen in (("model", model), ("dataset", dataset)):
            options = form.names_of(name, studio)
            selection = {} if chosen in options else {"value": form.first("", options)}
            updates[recipe_form.fields[name]] = gr.update(choices=options, **selection)
        pair = [
            updates[recipe_form.fields[name]].get("value", now)
            for name, now in (("model", model), ("dataset", dataset))
        ]
        accuracy_html = panel.accuracy(*estimates.error(studio))
        extra = {first: markup.empty(*_FIRST) if _fresh(studio) else "", accuracy: accuracy_html}
        return updates | choose_model(pair[0]) | price(*pair) | extra

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    # A single event for all changes of the form: with two, the older answer could arrive last and stay.
    update: Step = {"fn": None, "js": _CHANGED, **quiet}
    # Gradio fires no input event for pasting.
    typed_in = [field.blur for field in fields if isinstance(field, gr.Textbox)]
    edits = [*(field.input for field in fields if field is not modules), *typed_in, changed.submit]
    gr.on(edits, edited, fields, shown, trigger_mode="always_last", **quiet)
    filled, picked = [notice, recipe_form.preset_why, *fields], once.choice("preset", recipe_form.preset)
    picked.click(with_notice(studio, notice, choose_preset), recipe_form.preset, filled, **quiet).then(**update)
    chips.click(reset, None, fields, **quiet).then(**update)
    estimate.click(apply, None, fields, **quiet).then(**update)
    recipe_form.fields["model"].change(choose_model, recipe_form.fields["model"], modules, **quiet)
    recipe_form.opened.upload(
        with_notice(studio, notice, open_recipe), recipe_form.opened, [notice, *fields], **quiet
    ).then(**update)
    pair = [recipe_form.fields["model"], recipe_form.fields["dataset"]]
    gr.on([field.change for field in pair], price, pair, recipe_form.preset, trigger_mode="always_last", **quiet)
    modules.input(choose_modules, [modules, recipe_form.fields["model"]], modules, **quiet).then(**update)
    begins: Step = {"api_visibility": PRIVATE, "concurrency_limit": 1, "show_progress": "hidden"}
    start.click(with_notice(studio, notice, begin), fields, [notice, started, recipe_form.fields["name"]], **begins)
    dry_run = dry.click(
        with_notice_while(studio, notice, rehearse, trying.idle), fields, [notice, trying.said], **begins
    )
    dry_run.then(**update)
    awake = {sample: gr.update(interactive=True)}
    sample.click(
        with_notice_while(studio, fetching, begin_sample, awake),
        None,
        [notice, fetching, sample, started],
        **begins,
    )
    recipe_form.added.change(use_model, recipe_form.added, [recipe_form.fields["model"], modules], **quiet).then(
        **update
    )
    recall: Step = {"fn": None, "js": _recall(names), "inputs": [draft, *fields], "outputs": fields, **quiet}
    reopen: Step = {
        "fn": open_tab,
        "inputs": pair,
        "outputs": [*pair, modules, first, accuracy, recipe_form.preset],
        **quiet,
    }
    return TrainTab(form=recipe_form, draft=draft, started=started, recall=recall, reopen=reopen, update=update)


def _recall(names: list[str]) -> str:
    """A step that runs in the browser, since a server response could arrive after the user has typed something else."""
    return f"""(draft, ...now) => {{
        if (window.loraStudioRecalled) return now;
        window.loraStudioRecalled = true;
        return {json.dumps(names)}.map((name, place) => draft?.[name] ?? now[place]);
    }}"""


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """The defaults a preset starts from: it keeps the model, dataset and name unless it sets them itself."""
    return {name: value for name, value in values.items() if name not in ("name", "model", "dataset")}


def _sample(studio: Studio) -> dict[str, Any]:
    """The values of the preset that is ready to run: the one that sets a dataset."""
    return next((preset.values for preset in presets.list_presets(studio) if "dataset" in preset.values), {})


def _how_long(studio: Studio) -> str:
    """Duration of the sample's 38 steps.

    Measured: 1 minute on two cores with hardware bfloat16 multiplication, 4 minutes on two cores without.
    """
    now = machine.look(studio)
    if now.device_kind == "cuda":
        return "under a minute"
    minutes = max(1, round(2.2 / now.cores * (1 if now.bf16_fast else 3.6)))
    return f"about {minutes} min"


def _fresh(studio: Studio) -> bool:
    """Whether nothing has been trained here yet and the sample's data is available."""
    return not run_list.count(studio) and _sample(studio).get("dataset") in form.names_of("dataset", studio)
