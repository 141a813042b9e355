"""The panel next to the form: memory by item on this machine, trainable parameters, steps, warnings, the recipe."""

import base64
import json
import re
import shlex
from typing import Any

from studio.recipe import Recipe
from studio.recipe.fields import Method
from studio.services.planning.estimates import Estimate
from studio.ui.parts import units
from studio.ui.parts.templates import render
from studio.ui.train import form

_FIXES = 4


def estimate(result: Estimate, recipe: Recipe) -> str:
    """The estimate: a verdict, one bar and its legend, warnings, and buttons that apply changes that would help."""
    return render(
        "train/estimate.html",
        result=result,
        share=units.share_of(result.total, result.available),
        whole=max(result.available, result.total) or 1,
        items=[item for item in result.items if item.bytes > 0],
        trainable_percent=units.percent(result.trainable, result.parameters),
        batch=recipe.effective_batch,
        fixes=[(fix, json.dumps(fix.values)) for fix in result.fixes[:_FIXES]],
    )


def accuracy(median: float, runs: int) -> str:
    """How close the estimates of this home were to measured runs."""
    return render("train/accuracy.html", percent=f"{median:.0%}", runs=runs) if runs else ""


def touched(values: dict[str, Any]) -> str:
    """Fields that differ from the defaults, each with a button that restores the default."""
    usual = form.defaults()
    fields = [(name, _plain(value), _plain(usual[name])) for name, value in form.changes(values).items()]
    return render("train/changed.html", fields=fields) if fields else ""


def document(recipe: Recipe, values: dict[str, Any]) -> str:
    """The recipe as YAML, with a link that saves it as a file, and the command that trains it."""
    yaml = recipe.to_yaml()
    return render(
        "train/document.html",
        command=command(recipe, values),
        yaml=yaml,
        file_name=(re.sub(r"[^\w.-]+", "-", recipe.name) or "recipe") + ".yaml",
        data=base64.b64encode(yaml.encode()).decode(),
    )


def command(recipe: Recipe, values: dict[str, Any]) -> str:
    """`studio train …` with everything that differs from the defaults."""
    parts = [f"--model {shlex.quote(recipe.model.model)}", f"--dataset {shlex.quote(recipe.data.dataset)}"]
    if recipe.name:
        parts.append(f"--set name={shlex.quote(recipe.name)}")
    parts += [f"--set {name}={shlex.quote(_plain(recipe.get(name)))}" for name in form.changes(values)]
    return " \\\n  ".join(["studio train", *parts])


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def derived(values: dict[str, Any], method: Method | None = None) -> str:
    """What follows from the form's values, in words. The element's attributes also control which fields are shown."""
    lora = method if method is not None and method.method == "lora" else None
    return render("train/derived.html", values=values, lora=lora)
