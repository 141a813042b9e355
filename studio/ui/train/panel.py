"""The panel next to the form: memory by item on this machine, trainable parameters, steps, warnings, the recipe."""

import base64
import json
import re
import shlex
from typing import Any

from studio.recipe import Recipe
from studio.recipe.fields import Method
from studio.services.planning.estimates import Estimate
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc
from studio.ui.train import form

_FIXES = 4


def estimate(result: Estimate, recipe: Recipe) -> str:
    """The estimate as a verdict, one bar and its legend."""
    verdict = "fits" if result.fits else "does not fit"
    kind = "good" if result.fits else "bad"
    title = (
        f'<p class="verdict verdict-{kind}"><strong>{verdict.capitalize()}</strong> '
        f"{esc(units.share_of(result.total, result.available))}<small>{esc(result.device)}</small></p>"
    )
    figures = markup.facts(
        [
            *([("total time", f"{esc(units.span(60 * result.minutes))}")] if result.minutes else []),
            ("trainable", f"{esc(units.count(result.trainable))} "
             f"<small>{units.percent(result.trainable, result.parameters)}</small>"),
            ("steps", f"{result.steps:,}"),
            ("examples", f"{result.examples:,}"),
            ("batch", f"{recipe.effective_batch:,}"),
        ]
    )  # fmt: skip
    return title + _bar(result) + figures + _measured(result) + _room(result) + _sentences(result)


def _measured(result: Estimate) -> str:
    """The result of a dry run of this recipe, or the correction from one of a similar recipe."""
    dry = result.dry_run
    if dry is None:
        return ""
    if not result.exact:
        factor = f"{dry.correction:.2f}"
        text = f"Corrected by a dry run of a similar recipe: temporary memory is multiplied by {factor}."
        return f'<p class="why">{text}</p>'
    return markup.note(
        f"Measured in a dry run: {units.size(dry.measured)} at the peak (predicted {units.size(dry.predicted)}), "
        f"{dry.step_seconds:.1f} s per step on the {dry.rows} longest examples ({dry.length:,} tokens), "
        f"{dry.save_seconds:.1f} s for a checkpoint.",
        "good",
    )


def _room(result: Estimate) -> str:
    """The largest batch and length that would fit, and the source of the time estimate."""
    if result.fits:
        room = (
            f"With all else unchanged, batches of up to <b>{result.largest_batch:,}</b> fit, "
            f"or a max_length of up to <b>{result.longest_length:,}</b>."
        )
    else:
        room = ""
    source = f" The time is {esc(result.minutes_from)}." if result.minutes_from else ""
    return f'<p class="why">{room}{source}</p>' if room or source else ""


def _bar(result: Estimate) -> str:
    """One bar as long as the machine's memory; what does not fit extends past a mark."""
    whole = max(result.available, result.total) or 1
    shown = [item for item in result.items if item.bytes > 0]
    pieces = "".join(
        f'<i class="part part-{place % 8}" style="width:{100 * item.bytes / whole:.2f}%" title="{esc(item.label)}: '
        f'{esc(units.size(item.bytes))}"></i>'
        for place, item in enumerate(shown)
    )
    limit = f'<b class="limit" style="left:{100 * result.available / whole:.2f}%"></b>' if not result.fits else ""
    rows = "".join(
        f'<li title="{esc(item.note)}"><i class="part part-{place % 8}"></i>'
        f"<span>{esc(item.label)}</span><b>{esc(units.size(item.bytes))}</b></li>"
        for place, item in enumerate(shown)
    )
    label = f"Memory: {units.share_of(result.total, result.available)}"
    bar = f'<div class="memory" role="img" aria-label="{esc(label)}">{pieces}{limit}</div>'
    return f'{bar}<ul class="legend">{rows}</ul>'


def _sentences(result: Estimate) -> str:
    """Warnings, and changes that would make it fit: the largest savings first, each a button that applies it."""
    warnings = "".join(markup.note(text, "warn") for text in result.warnings)
    fixes = "".join(
        f'<li><button type="button" class="fix" data-pick data-fix="{esc(json.dumps(fix.values))}">'
        f"<span>{esc(fix.words[:1].upper() + fix.words[1:])}</span><b>{esc(units.size(fix.saved))} less</b>"
        f"<small>{esc(fix.price)}{'; then it fits' if fix.enough else ''}</small></button></li>"
        for fix in result.fixes[:_FIXES]
    )
    return warnings + (f'<h4>To make it fit</h4><ul class="fixes">{fixes}</ul>' if fixes else "")


def accuracy(median: float, runs: int) -> str:
    """How close the estimates of this home were to measured runs."""
    if not runs:
        return ""
    word = "run" if runs == 1 else "runs"
    return f'<p class="why">On this machine: median error {median:.0%} over {runs} measured {word}.</p>'


def touched(values: dict[str, Any]) -> str:
    """Fields that differ from the defaults, each with a button that restores the default."""
    usual = form.defaults()
    chips = "".join(
        f'<button type="button" class="chip" data-pick data-reset="{esc(name)}" '
        f'aria-label="Reset {esc(name)} to {esc(_plain(usual[name]))}" title="Default: {esc(_plain(usual[name]))}">'
        f'<code>{esc(name)}</code> {esc(_plain(value))}<span aria-hidden="true">×</span></button>'
        for name, value in form.changes(values).items()
    )
    return f'<div class="chips"><span>Changed</span>{chips}</div>' if chips else ""


def document(recipe: Recipe, values: dict[str, Any]) -> str:
    """The recipe as YAML and the command that trains it."""
    return (
        markup.heading("As a command")
        + markup.code(command(recipe, values), "the command")
        + markup.heading("As a recipe")
        + markup.code(recipe.to_yaml(), "the recipe")
        + _download(recipe)
    )


def _download(recipe: Recipe) -> str:
    """A link that saves the recipe as a file."""
    name = re.sub(r"[^\w.-]+", "-", recipe.name) or "recipe"
    data = base64.b64encode(recipe.to_yaml().encode()).decode()
    return f'<p><a class="link" download="{esc(name)}.yaml" href="data:text/yaml;base64,{data}">Save as a file</a></p>'


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


def derived(values: dict[str, Any], words: str = "") -> str:
    """What follows from the form's values, in words. The element's attributes also control which fields are shown."""
    chosen = " ".join(f'data-{name}="{esc(values[name])}"' for name in ("method", "template"))
    return f'<p class="derived" {chosen}>{words}</p>'


def scale(method: Method) -> str:
    """The scale that results from the method's numbers."""
    if method.method != "lora":
        return ""
    below = f"sqrt({method.r})" if method.use_rslora else str(method.r)
    word = "lora_alpha / sqrt(r)" if method.use_rslora else "lora_alpha / r"
    return (
        f"Scale <code>{word}</code> = {method.lora_alpha} / {below} = <strong>{method.scale:.4g}</strong>: "
        "the adapter's update is multiplied by it."
    )
