"""The form of a recipe, built from the recipe's own fields.

Labels, help texts, choices and argument names are defined in studio/recipe/recipe.py and nowhere else. The form
validates nothing: values go to the recipe as typed, and its error message comes back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.recipe import THEMES, Known, Recipe, all_fields, find_field
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.services.planning import presets
from studio.services.planning.presets import Cost, Preset
from studio.ui.parts import markup, units
from studio.ui.parts.handlers import view
from studio.ui.parts.templates import render
from studio.ui.train import model_box

ATTENTION = "attention-only"  # not a recipe value: replaced by the attention modules when chosen
_STEPS = {"learning_rate": 1e-4, "num_train_epochs": 0.5, "max_grad_norm": 0.1}


@dataclass(frozen=True)
class Form:
    """The form's components: `fields` by recipe name (and `name`), in the order of their values.

    `added` holds the id of the model last added here.
    """

    fields: dict[str, Any]
    preset: gr.Dropdown
    preset_why: gr.HTML
    opened: gr.UploadButton
    scale: gr.HTML
    added: gr.State


def build(studio: Studio) -> Form:
    """Build the form: simple fields first, the rest in folds by theme."""
    simple = [field for field in all_fields() if field.simple]
    fields: dict[str, Any] = {}
    with gr.Row(elem_classes="fields two"):
        preset = gr.Dropdown(
            presets_of(studio),
            value=None,
            label="Preset",
            elem_id="field-preset",
            filterable=False,
            info="A set of values, with its memory and time on this machine. You can change any of them afterwards.",
        )
        fields["name"] = gr.Textbox(
            label="Name",
            info=Recipe.model_fields["name"].description,
            max_length=80,
            elem_id="field-name",
            placeholder="automatic",
        )
    preset_why = view("preset-why")
    opened = gr.UploadButton(
        "Open a recipe (YAML)",
        file_types=[".yaml", ".yml"],
        type="filepath",
        size="sm",
        elem_id="open-recipe",
        elem_classes="quiet-button",
    )
    with gr.Row(elem_classes="fields two"):
        for field in simple[:2]:
            fields[field.name] = _field(field, studio)
    box = model_box.build(studio)
    with gr.Row(elem_classes="fields three"):
        for field in simple[2:]:
            fields[field.name] = _field(field, studio)
    scale = view("scale")
    with gr.Column(elem_id="advanced"):
        view("", markup.heading("Advanced", "All other settings, by theme. The defaults work well for most runs."))
        for theme in THEMES:
            _fold(theme, studio, fields)
    return Form(fields=fields, preset=preset, preset_why=preset_why, opened=opened, scale=scale, added=box.added)


def _fold(theme: str, studio: Studio, fields: dict[str, Any]) -> None:
    rest = [field for field in all_fields() if field.theme == theme and not field.simple]
    if not rest:
        return
    title = Recipe.model_fields[theme].title or theme
    with gr.Accordion(title, open=False, elem_classes="fold"), gr.Row(elem_classes="fields three"):
        for field in rest:
            fields[field.name] = _field(field, studio)


def _field(field: Known, studio: Studio) -> Any:
    """The component for a field's type. Bounds are left to the recipe, which reports them in plain words."""
    label = f"{field.label} ({field.unit})" if field.unit else field.label
    common = {"label": label, "info": field.help, "elem_id": f"field-{field.name}", "min_width": 180}
    if field.name in ("model", "dataset"):
        options = names_of(field.name, studio)
        return gr.Dropdown(options, value=first(field.default, options), allow_custom_value=True, **common)
    if field.name == "target_modules":
        return gr.Dropdown(modules_of(studio, None), value=["all-linear"], multiselect=True, **common)
    if field.name == "report_to":
        return gr.Dropdown(["tensorboard", "trackio", "wandb"], value=[], multiselect=True, **common)
    if field.choices:
        kind = gr.Radio if len(field.choices) == 2 else gr.Dropdown
        return kind(list(field.choices), value=field.default, **common)
    if field.kind is bool:
        return gr.Checkbox(value=field.default, **common)
    if field.kind in (int, float):
        step = 1 if field.kind is int else _STEPS.get(field.name, 0.01)
        return gr.Number(value=field.default, step=step, **common)
    return gr.Textbox(value=for_form(field.name, field.default), lines=3, **common)


def names_of(field: str, studio: Studio) -> list[str]:
    """The available models or datasets."""
    if field == "model":
        return [model.id for model in models.list_models(studio)]
    return [dataset.name for dataset in datasets.list_datasets(studio)]


def first(wanted: str, options: Sequence[str]) -> str:
    """`wanted` if it is available, else the first option."""
    return wanted if wanted in options else next(iter(options), "")


def modules_of(studio: Studio, model_id: str | None) -> list[tuple[str, str]]:
    """all-linear, attention only, and the model's actual linear layers, each with its number of parameters."""
    kinds = models.linear_modules(studio, model_id) if model_id else {}
    if not kinds:
        return [("all-linear", "all-linear")]
    total = sum(kind.parameters for kind in kinds.values())
    attention = sum(kind.parameters for kind in kinds.values() if kind.attention)
    return [
        (f"all-linear ({units.count(total)})", "all-linear"),
        *([(f"attention only ({units.count(attention)})", ATTENTION)] if attention else []),
        *(
            (f"{name} ({kind.layers} × {units.count(kind.parameters / kind.layers)})", name)
            for name, kind in kinds.items()
        ),
    ]


def attention_of(studio: Studio, model_id: str) -> list[str]:
    """The linear layers of a model's attention."""
    return [name for name, kind in models.linear_modules(studio, model_id).items() if kind.attention]


def presets_of(studio: Studio, model: str = "", dataset: str = "") -> list[tuple[str, str]]:
    """The presets, each with its memory and time on this machine for the chosen model and dataset."""
    costs = presets.costs(studio, model, dataset) if model and dataset else {}
    return [(_with_cost(preset, costs.get(preset.id)), preset.id) for preset in presets.list_presets(studio)]


def _with_cost(preset: Preset, cost: Cost | None) -> str:
    if cost is None:
        return preset.title
    time = f", {units.span(60 * cost.minutes)}" if cost.minutes else ""
    return f"{preset.title} ({units.size(cost.bytes)}{time}{'' if cost.fits else ', does not fit'})"


def defaults() -> dict[str, Any]:
    """The default of every field, as the form holds it."""
    return {"name": "", **{field.name: for_form(field.name, field.default) for field in all_fields()}}


def for_form(name: str, value: Any) -> Any:
    """A recipe's value as the component shows it: a list of texts one per line, a list of choices as a list."""
    if name == "report_to":
        return list(value)
    if name == "target_modules":
        return [value] if isinstance(value, str) else value
    return "\n".join(value) if isinstance(value, list | tuple) else value


def read(names: Sequence[str], values: Sequence[Any]) -> Recipe:
    """The recipe in the form. Raises BadInput with the recipe's own message."""
    typed = as_typed(names, values)
    if not typed["model"]:
        raise BadInput(
            "Choose a base model. If there is none yet, add one below, or train the sample, which includes one."
        )
    return Recipe().with_values(typed)


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Every field of a recipe, as the form holds it."""
    return {"name": recipe.name, **{field.name: recipe.get(field.name) for field in all_fields()}}


def as_typed(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The form's values by name. An empty choice becomes an empty string, which the recipe reports as missing."""
    words = {"name", "model", "dataset", "system_prompt", "custom_template"}
    return {name: "" if value is None and name in words else value for name, value in zip(names, values, strict=True)}


def changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `values` that differ from the defaults, without those always chosen (name, model, dataset)."""
    usual = defaults()
    return {
        name: value
        for name, value in values.items()
        if name not in ("name", "model", "dataset") and value != usual[name]
    }


def rules() -> str:
    """A style element generated from the fields: each field's library argument name next to its label, and which apply.

    Which apply depends on the method and template, given by an element with data-method and data-template that the
    panel redraws at every edit.
    """
    fields = list(all_fields())
    hidden = [
        (field.name, method)
        for field in fields
        for method in find_field("method").choices
        if field.methods and method not in field.methods
    ]
    return render(
        "train/field_rules.html", fields=[(field.name, field.kind is bool) for field in fields], hidden=hidden
    )
