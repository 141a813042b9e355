"""Train: the form on the left, what it would cost and Start on the right. Every edit asks the estimate again."""

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
    "A small model learns to turn customers' messages into tickets. Then you ask it, before and after.",
)

_CHANGED = "() => { document.dispatchEvent(new Event('studio-form')); }"
_ON_CHANGED = "document.addEventListener('studio-form', () => trigger('submit'));"


@dataclass(frozen=True)
class TrainTab:
    """What other tabs need: the run last started here, and the steps that bring form and estimate up to date.

    update has the page ask for the estimate of what the form says by then. recall fills the form from the draft that
    this browser kept, the first time only; reopen: what can be chosen.
    """

    form: form.Form
    draft: gr.BrowserState
    started: gr.State
    recall: Step
    reopen: Step
    update: Step


def waker() -> gr.HTML:
    """A component without looks, outside of the tab so that it is there before it: its `submit` comes with `update`."""
    return gr.HTML(js_on_load=_ON_CHANGED, elem_id="form-waker", apply_default_css=False)


def build(studio: Studio, changed: gr.HTML) -> TrainTab:
    """The tab's components and what happens in them. changed: the waker."""
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
            made = form.build(studio)
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

    names, fields = list(made.fields), list(made.fields.values())
    modules = made.fields["target_modules"]
    # So that the first answer moves nothing below it.
    made.scale.value = panel.derived(form.defaults(), panel.scale(Method()))
    shown = [estimate, chips, document, made.scale, start, draft]

    def edited(*values: Any) -> Updates:
        """What the form says now: estimate, recipe, whether it can start."""
        warm.expect(studio)
        typed = form.as_typed(names, values)
        try:
            recipe = form.read(names, values)
            found = panel.estimate(estimates.estimate(studio, recipe), recipe)
        except StudioError as error:
            return {
                estimate: markup.problem(access.for_reader(studio, error)),
                chips: panel.touched(typed),
                made.scale: panel.derived(typed),
                start: gr.update(interactive=False),
                draft: typed,
            }
        return {
            estimate: found,
            chips: panel.touched(typed),
            document: panel.document(recipe, typed),
            made.scale: panel.derived(typed, panel.scale(recipe.method)),
            start: gr.update(interactive=True),
            draft: typed,
        }

    def fill(values: dict[str, Any]) -> Updates:
        return {made.fields[name]: form.for_form(name, value) for name, value in values.items() if name in made.fields}

    def choose_preset(chosen: str | None) -> Updates:
        found = next((preset for preset in presets.list_presets(studio) if preset.id == chosen), None)
        if found is None:
            return {made.preset_why: ""}
        return {made.preset_why: markup.note(found.why)} | fill(_kept(form.defaults()) | found.values)

    def open_recipe(path: str) -> Updates:
        """The values of a recipe file; nothing is changed when it is none."""
        try:
            return fill(form.values_of(Recipe.load(Path(path))))
        finally:
            Path(path).unlink(missing_ok=True)

    def price(model: str, dataset: str) -> Updates:
        return {made.preset: gr.update(choices=form.presets_of(studio, model, dataset))}

    def choose_model(model: str) -> Updates:
        try:
            return {modules: gr.update(choices=form.modules_of(studio, model))}
        except StudioError:
            return {modules: gr.skip()}  # the estimate says that there is no such model

    def choose_modules(chosen: list[str], model: str) -> Updates:
        """all-linear stands alone: choosing it drops the others, choosing another drops it."""
        if chosen[-1:] == [form.ATTENTION]:
            return {modules: form.attention_of(studio, model)}
        alone = chosen[-1:] == ["all-linear"] or not chosen
        return {modules: ["all-linear"] if alone else [name for name in chosen if name != "all-linear"]}

    def reset(event: gr.EventData) -> Updates:
        usual, name = form.defaults(), getattr(event, "reset", None)
        return fill({name: usual[name]}) if name in usual else {}

    def apply(event: gr.EventData) -> Updates:
        """One of the changes that would make it fit."""
        return fill(json.loads(event.fix)) if hasattr(event, "fix") else {}

    def begin(*values: Any) -> Updates:
        run = runs.start(studio, form.read(names, values))
        return {started: run.id, made.fields["name"]: ""}

    def rehearse(request: gr.Request, *values: Any) -> Iterator[Updates]:
        """A few steps on the longest examples; the estimate then says what they took."""
        recipe = form.read(names, values)
        yield {notice: ""}
        yield from trying.follow(request, "Starting the worker", dry_runs.running(studio, recipe))

    def begin_sample() -> Iterator[Updates]:
        """Fetches the sample's model if it is not here yet, then starts the sample's run."""
        values = _sample(studio)
        yield {notice: "", sample: gr.update(interactive=False)}
        if values["model"] not in form.names_of("model", studio):
            for text in model_box.arriving(studio, values["model"]):
                yield {fetching: text}
        yield {fetching: "", started: runs.start(studio, Recipe().with_values(values)).id}

    def use_model(model: str) -> Updates:
        names = form.names_of("model", studio)
        return {made.fields["model"]: gr.update(choices=names, value=form.first(model, names))} | choose_model(model)

    def open_tab(model: str, dataset: str) -> Updates:
        """What can be chosen by now. A choice that still stands is not sent again: another may be made meanwhile."""
        found: Updates = {}
        for name, chosen in (("model", model), ("dataset", dataset)):
            options = form.names_of(name, studio)
            known = {} if chosen in options else {"value": form.first("", options)}
            found[made.fields[name]] = gr.update(choices=options, **known)
        pair = [found[made.fields[name]].get("value", now) for name, now in (("model", model), ("dataset", dataset))]
        said = panel.accuracy(*estimates.error(studio))
        fresh = {first: markup.empty(*_FIRST) if _fresh(studio) else "", accuracy: said}
        return found | choose_model(pair[0]) | price(*pair) | fresh

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    # One event for all that changes the form: of two, the older one's answer could come last and stay.
    update: Step = {"fn": None, "js": _CHANGED, **quiet}
    typed_in = [field.blur for field in fields if isinstance(field, gr.Textbox)]  # pasting is no input to Gradio
    edits = [*(field.input for field in fields if field is not modules), *typed_in, changed.submit]
    gr.on(edits, edited, fields, shown, trigger_mode="always_last", **quiet)
    filled, picked = [notice, made.preset_why, *fields], once.choice("preset", made.preset)
    picked.click(with_notice(studio, notice, choose_preset), made.preset, filled, **quiet).then(**update)
    chips.click(reset, None, fields, **quiet).then(**update)
    estimate.click(apply, None, fields, **quiet).then(**update)
    made.fields["model"].change(choose_model, made.fields["model"], modules, **quiet)
    made.opened.upload(with_notice(studio, notice, open_recipe), made.opened, [notice, *fields], **quiet).then(**update)
    pair = [made.fields["model"], made.fields["dataset"]]
    gr.on([field.change for field in pair], price, pair, made.preset, trigger_mode="always_last", **quiet)
    modules.input(choose_modules, [modules, made.fields["model"]], modules, **quiet).then(**update)
    begins: Step = {"api_visibility": PRIVATE, "concurrency_limit": 1, "show_progress": "hidden"}
    start.click(with_notice(studio, notice, begin), fields, [notice, started, made.fields["name"]], **begins)
    tries = dry.click(with_notice_while(studio, notice, rehearse, trying.idle), fields, [notice, trying.said], **begins)
    tries.then(**update)
    awake = {sample: gr.update(interactive=True)}
    sample.click(
        with_notice_while(studio, fetching, begin_sample, awake),
        None,
        [notice, fetching, sample, started],
        **begins,
    )
    made.added.change(use_model, made.added, [made.fields["model"], modules], **quiet).then(**update)
    recall: Step = {"fn": None, "js": _recall(names), "inputs": [draft, *fields], "outputs": fields, **quiet}
    reopen: Step = {"fn": open_tab, "inputs": pair, "outputs": [*pair, modules, first, accuracy, made.preset], **quiet}
    return TrainTab(form=made, draft=draft, started=started, recall=recall, reopen=reopen, update=update)


def _recall(names: list[str]) -> str:
    """The browser's own step, since an answer of the server may come after the user has typed something else."""
    return f"""(draft, ...now) => {{
        if (window.loraStudioRecalled) return now;
        window.loraStudioRecalled = true;
        return {json.dumps(names)}.map((name, place) => draft?.[name] ?? now[place]);
    }}"""


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """A preset starts from the defaults, but leaves the model, dataset and name alone unless it names them."""
    return {name: value for name, value in values.items() if name not in ("name", "model", "dataset")}


def _sample(studio: Studio) -> dict[str, Any]:
    """The values of the preset that is ready to run: it names its dataset."""
    return next((preset.values for preset in presets.list_presets(studio) if "dataset" in preset.values), {})


def _how_long(studio: Studio) -> str:
    """How long the sample's 38 steps take: measured 1 minute on two cores that multiply bfloat16 in hardware, 4 on two
    that do not."""
    now = machine.look(studio)
    if now.device_kind == "cuda":
        return "under a minute"
    minutes = max(1, round(2.2 / now.cores * (1 if now.bf16_fast else 3.6)))
    return f"about {minutes} min"


def _fresh(studio: Studio) -> bool:
    """Whether nobody has trained here yet and the sample's data is there."""
    return not run_list.count(studio) and _sample(studio).get("dataset") in form.names_of("dataset", studio)
