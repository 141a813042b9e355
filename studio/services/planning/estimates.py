"""The estimate shown by the form at every edit: memory by item, steps and minutes, what fits, warnings, fixes."""

import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from studio.dataset.tokens import lengths
from studio.dataset.tokens.template import template_source
from studio.errors import BadInput, NotFound
from studio.memory import flops
from studio.memory.estimate import Footprint, Item
from studio.memory.shapes import ModelShape
from studio.recipe import Recipe
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.host import machine
from studio.services.models import models
from studio.services.planning import advice, dry_run_results, speed
from studio.services.planning.advice import Fix, Question
from studio.services.planning.dry_run_results import DryRun
from studio.services.planning.speed import Speed
from studio.store import runs as rows

__all__ = ["Estimate", "Fix", "Item", "check_modules", "error", "estimate"]

# nvidia-smi is too slow for every edit of the form, so its answer is cached for this many seconds.
_MACHINE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Peak bytes on the training device by item, compared with what is free; steps and examples of the run.

    largest_batch and longest_length: the largest that fit, all else unchanged (0: not even the smallest). fixes:
    changes that would make it fit, the largest saving first; advice: the first three in words. minutes: of the whole
    run, 0 where the examples are not known; minutes_from: where the speed comes from. moment: the part of a step at
    which memory is highest. pageable: bytes of the total that go to RAM where they do not fit. dry_run: the dry run
    that corrected this estimate, if any; exact: whether it was of this very recipe.
    """

    items: list[Item]
    total: int
    available: int
    device: str
    fits: bool
    trainable: int
    parameters: int
    steps: int
    examples: int
    longest: int
    warnings: list[str]
    advice: list[str]
    largest_batch: int = 0
    longest_length: int = 0
    fixes: list[Fix] = field(default_factory=list)
    minutes: float = 0.0
    minutes_from: str = ""
    moment: str = ""
    pageable: int = 0
    dry_run: DryRun | None = None
    exact: bool = False


def estimate(studio: Studio, recipe: Recipe, device_memory: int | None = None, *, ask_hub: bool = False) -> Estimate:
    """Estimate a recipe on this machine; without a dataset, for examples of max_length tokens.

    The model may be in this home, a known one by its hub id, or (ask_hub) any on the hub. device_memory: bytes of a
    GPU to estimate for instead of this machine.
    """
    question, sizes, now = _question(studio, recipe, device_memory, ask_hub)
    dry, exact = dry_run_results.nearest(studio, recipe, question.device) if not device_memory else (None, False)
    if dry:
        question = replace(question, correction=dry.correction)
    try:
        footprint = question.footprint(recipe)
    except (ArithmeticError, TypeError, ValueError, LookupError):  # its config has impossible sizes
        raise BadInput(f"The config.json of {recipe.model.model} has sizes that do not fit together.") from None
    fits = advice.needed(footprint) <= question.available
    fixes = [] if fits else advice.fixes(question, footprint)
    examples = _training_examples(sizes, recipe) if sizes else 0
    steps = recipe.total_steps(_rows(recipe, sizes, examples)) if sizes and examples else 0
    minutes, source = _minutes(studio, question, sizes, steps, now, dry) if not device_memory else (0.0, "")
    return Estimate(
        items=footprint.items,
        total=footprint.total,
        available=question.available,
        device=f"a GPU of {device_memory / 2**30:.0f} GiB" if device_memory else now.device,
        fits=fits,
        trainable=footprint.trainable,
        parameters=footprint.parameters,
        steps=steps or max(0, recipe.schedule.max_steps),
        examples=examples,
        longest=question.longest,
        warnings=advice.warnings(question, sizes, examples, footprint.trainable, now)
        + _paged(footprint, question.available),
        advice=advice.as_text(fixes),
        largest_batch=advice.largest_batch(question),
        longest_length=advice.longest_length(question),
        fixes=fixes,
        minutes=minutes,
        minutes_from=source,
        moment=footprint.moment,
        pageable=footprint.pageable,
        dry_run=dry,
        exact=exact,
    )


def question(studio: Studio, recipe: Recipe) -> Question:
    """The inputs of an estimate of a recipe on this machine, without correction by a dry run."""
    return _question(studio, recipe, None, ask_hub=False)[0]


def _question(
    studio: Studio, recipe: Recipe, device_memory: int | None, ask_hub: bool
) -> tuple[Question, lengths.Lengths | None, machine.Machine]:
    shape = models.known_shape(studio, recipe.model.model, ask_hub=ask_hub)
    check_modules(recipe, shape)
    now = _machine(studio)
    kind = "cuda" if device_memory else now.device_kind
    available = device_memory or now.device_total - now.device_used
    sizes = _lengths(studio, recipe)
    longest = min(sizes.longest, recipe.data.max_length) if sizes else recipe.data.max_length
    share = sizes.trained_share if sizes else 1.0
    return Question(shape, recipe, kind, longest, share, available, now.processor), sizes, now


def allocated(result: Estimate) -> int:
    """The bytes of an estimate that the allocator counts, as measured: without runtime and pageable bytes."""
    return sum(item.bytes for item in result.items if item.key != "runtime") - result.pageable


def check_modules(recipe: Recipe, shape: ModelShape) -> None:
    """Raise BadInput when target_modules names a layer that the model lacks."""
    wanted = recipe.method.target_modules
    if wanted == "all-linear" or recipe.method.method != "lora":
        return
    for name in wanted:
        if name not in shape.modules:
            has = ", ".join(sorted(shape.modules))
            raise BadInput(f"{shape.name} has no linear layer {name!r}. It has: {has}, or use all-linear.")


def error(studio: Studio) -> tuple[float, int]:
    """Median absolute error of this home's estimates, and the number of runs with a measured peak it is based on.

    A run has `predicted_bytes` in its plan and the peak in a `measured` event (engine.measure.Meter).
    """
    errors = []
    for row in rows.every(studio.database, studio.owner):
        predicted = (row.plan or {}).get("predicted_bytes")
        event = rows.last_event(studio.database, row.id, "measured") if predicted else None
        peak = event.payload.get("bytes") if event else None
        if isinstance(predicted, int | float) and isinstance(peak, int | float) and peak > 0:
            errors.append(abs(predicted / peak - 1))
    return (statistics.median(errors), len(errors)) if errors else (0.0, 0)


_seen: dict[Path, tuple[float, object, machine.Machine]] = {}


def _machine(studio: Studio) -> machine.Machine:
    """The machine, cached for a moment."""
    home = studio.settings.home
    cached = _seen.get(home)
    if cached is not None and time.monotonic() - cached[0] < _MACHINE_SECONDS and cached[1] is machine.look:
        return cached[2]
    now = machine.look(studio)
    _seen[home] = (time.monotonic(), machine.look, now)
    return now


def _lengths(studio: Studio, recipe: Recipe) -> lengths.Lengths | None:
    if not recipe.data.dataset:
        return None
    try:
        folder = models.folder_of(studio, recipe.model.model)
    except NotFound:
        return None  # only its shape is known: there is no tokenizer here to count tokens
    if recipe.data.template == "chat" and template_source(folder) is None:
        raise BadInput(f"{folder.name} has no chat template. Choose the Alpaca template, or a model made for chat.")
    dataset = datasets.folder_of(studio, recipe.data.dataset)
    return lengths.measure(dataset, folder, recipe.data, studio.settings.cache / "tokens")


def _training_examples(sizes: lengths.Lengths, recipe: Recipe) -> int:
    if sizes.held_out:
        return sizes.rows - sizes.held_out
    held_out = min(max(1, round(recipe.data.held_out * sizes.rows)), sizes.rows - 1) if recipe.data.held_out else 0
    return sizes.rows - held_out


def _rows(recipe: Recipe, sizes: lengths.Lengths, examples: int) -> int:
    """Number of training rows: examples, or packed rows, which are nearly full."""
    if not recipe.schedule.packing:
        return examples
    tokens = examples * min(sizes.mean, recipe.data.max_length)
    return max(1, round(tokens / recipe.data.max_length))


def _minutes(
    studio: Studio,
    question: Question,
    sizes: lengths.Lengths | None,
    steps: int,
    now: machine.Machine,
    dry: DryRun | None,
) -> tuple[float, str]:
    """Minutes of training, from the number of operations and this machine's speed, and the source of the speed."""
    if sizes is None or not steps:
        return 0.0, ""
    recipe = question.recipe
    mean = recipe.data.max_length if recipe.schedule.packing else min(sizes.mean, recipe.data.max_length)
    operations = (
        steps * recipe.effective_batch * mean * flops.per_token(question.shape, recipe, mean, sizes.trained_share)
    )
    measured = Speed(dry.rate, "measured in a dry run on this machine") if dry else speed.of(studio, recipe, now)
    return operations / measured.rate / 60, measured.source


def _paged(footprint: Footprint, available: int) -> list[str]:
    if not footprint.pageable or footprint.total <= available:
        return []
    moved = min(footprint.pageable, footprint.total - available) / 2**30
    return [
        f"{moved:.1f} GiB of the optimizer's states do not fit and will be paged to RAM, which slows down every step."
    ]
