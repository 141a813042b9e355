"""The estimate a form asks for at every edit: memory by item, steps and minutes, what fits, warnings and fixes."""

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

# nvidia-smi takes longer to answer than an edit may: what it said holds for a moment.
_MACHINE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Peak bytes on the training device by item, against what it has free; steps and examples of the run.

    largest_batch and longest_length fit with everything else as it is (0: not even the smallest). fixes: what would
    make it fit, the largest saving first; advice: the same in three sentences. minutes: to the end, 0 where the
    examples are not known; minutes_from: how the speed is known. moment: of the step at which memory is highest.
    pageable: bytes of the total that go to RAM where they do not fit. dry_run: the measurement that this is corrected
    by, if there is one for such a recipe, and exact: whether it was of this very recipe.
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
    """Estimate a recipe for this machine; without a dataset, for examples of max_length tokens.

    The model may be one of this home, a known one by its hub id, or (ask_hub) any on the hub. device_memory: bytes of
    a GPU to answer for instead of this machine.
    """
    asked, sizes, now = _question(studio, recipe, device_memory, ask_hub)
    dry, exact = dry_run_results.nearest(studio, recipe, asked.device) if not device_memory else (None, False)
    if dry:
        asked = replace(asked, correction=dry.correction)
    try:
        found = asked.footprint(recipe)
    except (ArithmeticError, TypeError, ValueError, LookupError):  # sizes in its config that no model has
        raise BadInput(f"The config.json of {recipe.model.model} has sizes that do not fit together.") from None
    fits = advice.needed(found) <= asked.available
    fixes = [] if fits else advice.fixes(asked, found)
    examples = _training_examples(sizes, recipe) if sizes else 0
    steps = recipe.total_steps(_rows(recipe, sizes, examples)) if sizes and examples else 0
    minutes, source = _minutes(studio, asked, sizes, steps, now, dry) if not device_memory else (0.0, "")
    return Estimate(
        items=found.items,
        total=found.total,
        available=asked.available,
        device=f"a GPU of {device_memory / 2**30:.0f} GiB" if device_memory else now.device,
        fits=fits,
        trainable=found.trainable,
        parameters=found.parameters,
        steps=steps or max(0, recipe.schedule.max_steps),
        examples=examples,
        longest=asked.longest,
        warnings=advice.warnings(asked, sizes, examples, found.trainable, now) + _paged(found, asked.available),
        advice=advice.as_text(fixes),
        largest_batch=advice.largest_batch(asked),
        longest_length=advice.longest_length(asked),
        fixes=fixes,
        minutes=minutes,
        minutes_from=source,
        moment=found.moment,
        pageable=found.pageable,
        dry_run=dry,
        exact=exact,
    )


def question(studio: Studio, recipe: Recipe) -> Question:
    """What is to be known of a recipe on this machine, before any dry run has corrected it."""
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


def allocated(found: Estimate) -> int:
    """Of an estimate what an allocator counts, and a measurement gives: not the runtime, not what may be paged out."""
    return sum(item.bytes for item in found.items if item.key != "runtime") - found.pageable


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
    """Median absolute error of this home's estimates, and the runs it is of: those whose peak was measured.

    A run tells `predicted_bytes` in its plan and the peak in an event of its own (engine.measure.Meter).
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
    """The machine as it was a moment ago."""
    home = studio.settings.home
    kept = _seen.get(home)
    if kept is not None and time.monotonic() - kept[0] < _MACHINE_SECONDS and kept[1] is machine.look:
        return kept[2]
    now = machine.look(studio)
    _seen[home] = (time.monotonic(), machine.look, now)
    return now


def _lengths(studio: Studio, recipe: Recipe) -> lengths.Lengths | None:
    if not recipe.data.dataset:
        return None
    try:
        folder = models.folder_of(studio, recipe.model.model)
    except NotFound:
        return None  # known by its shape alone: nothing here can count its tokens
    if recipe.data.template == "chat" and template_source(folder) is None:
        raise BadInput(f"{folder.name} has no chat template. Choose the Alpaca template, or a model made for chat.")
    dataset = datasets.folder_of(studio, recipe.data.dataset)
    return lengths.measure(dataset, folder, recipe.data, studio.settings.cache / "tokens")


def _training_examples(sizes: lengths.Lengths, recipe: Recipe) -> int:
    if sizes.held_out:
        return sizes.rows - sizes.held_out
    out = min(max(1, round(recipe.data.held_out * sizes.rows)), sizes.rows - 1) if recipe.data.held_out else 0
    return sizes.rows - out


def _rows(recipe: Recipe, sizes: lengths.Lengths, examples: int) -> int:
    """Rows a batch is made of: examples, or packed rows, which are nearly full."""
    if not recipe.schedule.packing:
        return examples
    tokens = examples * min(sizes.mean, recipe.data.max_length)
    return max(1, round(tokens / recipe.data.max_length))


def _minutes(
    studio: Studio,
    asked: Question,
    sizes: lengths.Lengths | None,
    steps: int,
    now: machine.Machine,
    dry: DryRun | None,
) -> tuple[float, str]:
    """Minutes of training, from counted operations and this machine's speed."""
    if sizes is None or not steps:
        return 0.0, ""
    recipe = asked.recipe
    mean = recipe.data.max_length if recipe.schedule.packing else min(sizes.mean, recipe.data.max_length)
    operations = steps * recipe.effective_batch * mean * flops.per_token(asked.shape, recipe, mean, sizes.trained_share)
    known = Speed(dry.rate, "measured in a dry run on this machine") if dry else speed.of(studio, recipe, now)
    return operations / known.rate / 60, known.source


def _paged(found: Footprint, available: int) -> list[str]:
    if not found.pageable or found.total <= available:
        return []
    moved = min(found.pageable, found.total - available) / 2**30
    return [
        f"{moved:.1f} GiB of the optimizer's states do not fit and are paged to RAM: each step then waits for them."
    ]
