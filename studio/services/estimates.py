"""The estimate a form asks for at every edit: memory by item, steps, warnings and advice."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.dataset import lengths
from studio.dataset.template import template_source
from studio.errors import BadInput
from studio.memory import estimate as memory
from studio.memory.estimate import GIB, Footprint, Item
from studio.memory.shapes import ModelShape
from studio.recipe import Recipe
from studio.services import datasets, machine, models

if TYPE_CHECKING:
    from studio.services.studio import Studio

__all__ = ["Estimate", "Item", "check_modules", "estimate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Peak bytes on the training device by item, against what it has free; steps and examples of the run."""

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


def estimate(studio: "Studio", recipe: Recipe) -> Estimate:
    """Estimate a recipe for this machine; without a dataset, for examples of max_length tokens."""
    shape = models.shape_of(studio, recipe.model.model)
    check_modules(recipe, shape)
    now = machine.look(studio)
    sizes = _lengths(studio, recipe)
    longest = min(sizes.longest, recipe.data.max_length) if sizes else recipe.data.max_length
    share = sizes.trained_share if sizes else 1.0
    found = memory.footprint(shape, recipe, now.device_kind, longest, share)
    available = now.device_total - now.device_used
    examples = _training_examples(sizes, recipe) if sizes else 0
    return Estimate(
        items=found.items,
        total=found.total,
        available=available,
        device=now.device,
        fits=found.total <= available,
        trainable=found.trainable,
        parameters=found.parameters,
        steps=recipe.total_steps(examples) if examples else max(0, recipe.schedule.max_steps),
        examples=examples,
        longest=longest,
        warnings=_warnings(recipe, shape, sizes, now),
        advice=_advice(shape, recipe, found, available, now, (longest, share)),
    )


def check_modules(recipe: Recipe, shape: ModelShape) -> None:
    """Raise BadInput when target_modules names a layer that the model lacks."""
    wanted = recipe.method.target_modules
    if wanted == "all-linear":
        return
    for name in wanted:
        if name not in shape.modules:
            has = ", ".join(sorted(shape.modules))
            raise BadInput(f"{shape.name} has no linear layer {name!r}. It has: {has}, or use all-linear.")


def _lengths(studio: "Studio", recipe: Recipe) -> lengths.Lengths | None:
    if not recipe.data.dataset:
        return None
    folder = models.folder_of(studio, recipe.model.model)
    if recipe.data.template == "chat" and template_source(folder) is None:
        raise BadInput(f"{folder.name} has no chat template. Choose the Alpaca template, or a model made for chat.")
    dataset = datasets.folder_of(studio, recipe.data.dataset)
    return lengths.measure(dataset, folder, recipe.data, studio.settings.cache / "tokens")


def _training_examples(sizes: lengths.Lengths, recipe: Recipe) -> int:
    if sizes.held_out:
        return sizes.rows - sizes.held_out
    out = min(max(1, round(recipe.data.held_out * sizes.rows)), sizes.rows - 1) if recipe.data.held_out else 0
    return sizes.rows - out


def _warnings(recipe: Recipe, shape: ModelShape, sizes: lengths.Lengths | None, now: machine.Machine) -> list[str]:
    found = []
    rate, small = recipe.optimizer.learning_rate, shape.parameters < 1e9
    if rate > (2e-3 if small else 5e-4):
        usual = "5e-4 to 1e-3 for a model this small" if small else "1e-4 to 2e-4"
        found.append(f"A learning rate of {rate:g} is high for LoRA ({usual}): the loss may diverge.")
    if not 0.25 <= recipe.method.scale <= 8:
        found.append(f"The scale lora_alpha / r is {recipe.method.scale:g}; 0.5 to 4 is usual.")
    if shape.max_positions and recipe.data.max_length > shape.max_positions:
        found.append(
            f"max_length {recipe.data.max_length} is beyond the {shape.max_positions} positions of {shape.name}."
        )
    if sizes is not None and sizes.longest > recipe.data.max_length:
        found.append(f"The longest example has {sizes.longest} tokens and is cut at {recipe.data.max_length}.")
    if sizes is not None and recipe.schedule.max_steps > 0:
        seen = recipe.schedule.max_steps * recipe.effective_batch / max(1, _training_examples(sizes, recipe))
        if seen < 0.1:
            found.append(f"{recipe.schedule.max_steps} steps see {seen:.0%} of the examples.")
    if now.device_kind == "cpu" and shape.parameters > 2e9:
        found.append(f"{shape.parameters / 1e9:.1f} B parameters train very slowly on a CPU.")
    return found


def _advice(
    shape: ModelShape, recipe: Recipe, found: Footprint, available: int, now: machine.Machine, known: tuple[int, float]
) -> list[str]:
    """What would make it fit: the changes that save most, with what they cost."""
    if found.total <= available:
        return []
    changes: list[tuple[dict[str, Any], str, str]] = [
        ({"gradient_checkpointing": True}, "turn on gradient_checkpointing", "about 30% slower"),
        ({"quantization": "nf4"}, "hold the base in NF4", "about a third slower"),
        ({"per_device_train_batch_size": 1}, "batch size 1 with more accumulation", "slower"),
        (
            {"max_length": max(8, recipe.data.max_length // 2)},
            f"halve max_length to {recipe.data.max_length // 2}",
            "long answers are cut",
        ),
        ({"dtype": "bfloat16"}, "weights in bfloat16", "less exact"),
    ]
    savings = []
    for values, words, price in changes:
        less = found.total - memory.footprint(shape, recipe.with_values(values), now.device_kind, *known).total
        if less > 0:
            savings.append((less, f"{words}: {less / GIB:.1f} GiB less, {price}"))
    return [text for _, text in sorted(savings, reverse=True)[:3]]
