"""Advice before a run: warnings with numbers, what fits into memory, and changes that would make it fit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studio.dataset.tokens.lengths import Lengths
from studio.errors import BadInput
from studio.machine.cpu import Processor
from studio.memory import estimate as memory
from studio.memory.estimate import GIB, Footprint
from studio.memory.shapes import ModelShape
from studio.recipe import Recipe
from studio.recipe.fast_path import why_not
from studio.services.host.machine import Machine

_LONGEST = 131_072  # for models whose config names no limit
_LARGEST_BATCH = 4096
_TRIES = 6
# Warn above this many trained parameters per training token.
_MANY_PARAMETERS = 1000


@dataclass(frozen=True, slots=True)
class Fix:
    """A change that saves memory. values: field names to new values; saved: bytes; enough: whether it then fits."""

    values: dict[str, Any]
    words: str
    saved: int
    price: str
    enough: bool


@dataclass(frozen=True, slots=True)
class Question:
    """The inputs of an estimate: a model, a recipe, examples of `longest` tokens, a device with `available` bytes.

    share: fraction of tokens that are trained on. correction: factor, from a dry run, for the bytes that are not exact.
    """

    shape: ModelShape
    recipe: Recipe
    device: str
    longest: int
    share: float
    available: int
    processor: Processor
    correction: float = 1.0

    def footprint(self, recipe: Recipe, longest: int | None = None) -> Footprint:
        """The estimate for a changed recipe."""
        estimate = memory.footprint(
            self.shape, recipe, self.device, longest or self.longest, self.share, self.processor
        )
        return estimate.corrected(self.correction)


def needed(footprint: Footprint) -> int:
    """Bytes that must be free: pageable states can move to RAM."""
    return footprint.total - footprint.pageable


def largest_batch(question: Question) -> int:
    """The largest per_device_train_batch_size that fits; 0 when not even 1 does."""

    def size(batch: int) -> int:
        schedule = question.recipe.schedule.model_copy(update={"per_device_train_batch_size": batch})
        return needed(question.footprint(question.recipe.model_copy(update={"schedule": schedule})))

    return _most(size, question.available, 1, _LARGEST_BATCH)


def longest_length(question: Question) -> int:
    """The largest max_length that fits, assuming examples that long; 0 when not even 8 tokens do."""

    def size(length: int) -> int:
        data = question.recipe.data.model_copy(update={"max_length": length})
        return needed(question.footprint(question.recipe.model_copy(update={"data": data}), length))

    return _most(size, question.available, 8, question.shape.max_positions or _LONGEST)


def _most(size: Callable[[int], int], room: int, low: int, high: int) -> int:
    """The largest number from low to high whose size is at most `room`; 0 when `low` does not fit.

    Searches by interpolation, since sizes grow almost linearly. After a few tries it returns the largest that fitted.
    """
    below, above = size(low), size(high)
    if below > room:
        return 0
    if above <= room:
        return high
    for attempt in range(_TRIES):
        if high - low <= 1:
            break
        guess = low + int((high - low) * (room - below) / max(1, above - below))
        if attempt % 3 == 2:
            guess = (low + high) // 2  # bisect at times, so that it converges where growth is uneven
        guess = min(max(guess, low + 1), high - 1)
        bytes_needed = size(guess)
        if bytes_needed <= room:
            low, below = guess, bytes_needed
            # Where growth is even, testing the next larger number ends the search.
            if low + 1 < high and (step := size(low + 1)) > room:
                high, above = low + 1, step
        else:
            high, above = guess, bytes_needed
    return low


def fixes(question: Question, footprint: Footprint) -> list[Fix]:
    """Changes that save memory, the largest saving first."""
    saving = []
    for values, words, price in _changes(question):
        try:
            changed = question.recipe.with_values(values)
        except BadInput:
            continue  # not compatible with the rest of the recipe
        after = needed(question.footprint(changed, min(question.longest, changed.data.max_length)))
        if after < needed(footprint):
            saving.append(Fix(values, words, needed(footprint) - after, price, after <= question.available))
    return sorted(saving, key=lambda fix: fix.saved, reverse=True)


def _changes(question: Question) -> list[tuple[dict[str, Any], str, str]]:
    recipe, schedule = question.recipe, question.recipe.schedule
    changes: list[tuple[dict[str, Any], str, str]] = []
    if not schedule.gradient_checkpointing:
        changes.append(({"gradient_checkpointing": True}, "turn on gradient_checkpointing", "about 30% slower"))
    if recipe.method.method == "full":
        changes.append(({"method": "lora"}, "train a LoRA adapter (method lora)", "up to 5% worse on large changes"))
    elif not recipe.quantization.four_bit:
        changes.append(({"quantization": "nf4"}, "load the base in NF4", "up to a third slower"))
    elif not recipe.quantization.bnb_4bit_use_double_quant:
        changes.append(({"bnb_4bit_use_double_quant": True}, "quantize the scales as well", "almost no loss"))
    if schedule.per_device_train_batch_size > 1:
        single = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": recipe.effective_batch}
        changes.append((single, "use batch size 1 with more accumulation", "same result, somewhat slower"))
    half = max(8, min(recipe.data.max_length, question.longest) // 2)
    changes.append(({"max_length": half}, f"halve max_length to {half}", "longer examples are truncated"))
    if recipe.model.dtype == "float32":
        changes.append(({"dtype": "bfloat16"}, "load the weights in bfloat16", "3 instead of 7 significant digits"))
    if question.device == "cuda" and recipe.optimizer.optim != "paged_adamw_8bit":
        changes.append(({"optim": "paged_adamw_8bit"}, "use the paged 8-bit optimizer", "almost no loss"))
    if recipe.evaluation.per_device_eval_batch_size > 1:
        changes.append(({"per_device_eval_batch_size": 1}, "evaluate one example at a time", "evaluations take longer"))
    return changes + _of_adapter(question)


def _of_adapter(question: Question) -> list[tuple[dict[str, Any], str, str]]:
    method, changes = question.recipe.method, list[tuple[dict[str, Any], str, str]]()
    if method.method != "lora":
        return changes
    if method.use_dora:
        changes.append(({"use_dora": False}, "use plain LoRA instead of DoRA", "a little worse below r 16"))
    if method.lora_dropout:
        changes.append(({"lora_dropout": 0}, "turn off lora_dropout", "less protection against overfitting"))
    if method.r > 8:
        values = {"r": 8, "lora_alpha": max(1, round(method.lora_alpha * 8 / method.r))}
        changes.append((values, "use rank 8 at the same scale", "less capacity for hard tasks"))
    attention = [name for name in ("q_proj", "v_proj") if name in question.shape.modules]
    if method.target_modules == "all-linear" and attention:
        changes.append(
            ({"target_modules": attention}, f"adapt {' and '.join(attention)} only", "1 to 3% worse on hard tasks")
        )
    return changes


def as_text(fixes: list[Fix]) -> list[str]:
    """The three fixes that save most, as phrases."""
    return [f"{fix.words}: {fix.saved / GIB:.1f} GiB less, {fix.price}" for fix in fixes[:3]]


def warnings(question: Question, sizes: Lengths | None, examples: int, trainable: int, now: Machine) -> list[str]:
    """Warnings about unusual values in the recipe, with numbers."""
    recipe, shape = question.recipe, question.shape
    messages = [*_rates(recipe, shape), *_strength(recipe, shape)]
    if shape.max_positions and recipe.data.max_length > shape.max_positions:
        messages.append(
            f"max_length {recipe.data.max_length} exceeds the {shape.max_positions} positions of {shape.name}."
        )
    if sizes is not None:
        messages += _of_data(recipe, sizes, examples, trainable)
    if question.device == "cpu" and shape.parameters > 2e9:
        messages.append(f"{shape.parameters / 1e9:.1f} B parameters train very slowly on a CPU.")
    if question.device == "cpu" and recipe.model.dtype == "bfloat16" and not now.bf16_fast:
        reason = why_not(recipe, shape.config, cuda=False)
        if reason:
            messages.append(f"This processor has no bfloat16 arithmetic, so float32 would be much faster. {reason}")
    return messages


def _rates(recipe: Recipe, shape: ModelShape) -> list[str]:
    rate, method, small = recipe.optimizer.learning_rate, recipe.method.method, shape.parameters < 1e9
    if method == "full" and rate > 1e-4:
        return [f"A learning rate of {rate:g} is high for full fine-tuning (1e-5 to 5e-5): the loss may diverge."]
    if method == "lora" and rate > (2e-3 if small else 5e-4):
        usual = "5e-4 to 1e-3 for a model this small" if small else "1e-4 to 2e-4"
        return [f"A learning rate of {rate:g} is high for LoRA ({usual}): the loss may diverge."]
    if method in ("ia3", "prompt", "prefix") and rate < 1e-3:
        return [f"A learning rate of {rate:g} is low for method {method} (3e-3 to 3e-2): it may hardly learn."]
    return []


def _strength(recipe: Recipe, shape: ModelShape) -> list[str]:
    method, messages = recipe.method, []
    if method.method == "lora":
        if not 0.25 <= method.scale <= 8:
            formula = "lora_alpha / sqrt(r)" if method.use_rslora else "lora_alpha / r"
            messages.append(f"The scale {formula} is {method.scale:g}; 0.5 to 4 is usual.")
        if method.use_dora:
            messages.append("use_dora makes a step up to twice as long.")
        if method.use_dora and method.lora_dropout:
            messages.append("use_dora with lora_dropout above 0 keeps a second copy of every adapted layer's weight.")
    if method.method in ("prompt", "prefix") and shape.parameters < 2e9:
        messages.append(
            f"Method {method.method} suits models of several billion parameters (Lester et al. 2021); "
            f"{shape.name} has {shape.parameters / 1e9:.2g} billion."
        )
    return messages


def _of_data(recipe: Recipe, sizes: Lengths, examples: int, trainable: int) -> list[str]:
    messages = []
    if sizes.longest > recipe.data.max_length:
        messages.append(f"The longest example has {sizes.longest} tokens and is truncated at {recipe.data.max_length}.")
    epochs = float(recipe.schedule.num_train_epochs)
    if recipe.schedule.max_steps > 0:
        epochs = recipe.schedule.max_steps * recipe.effective_batch / max(1, examples)
        if epochs < 0.1:
            messages.append(f"{recipe.schedule.max_steps} steps see {epochs:.0%} of the examples.")
    trained_tokens = max(1.0, examples * sizes.mean * sizes.trained_share)
    if trainable > _MANY_PARAMETERS * trained_tokens:
        messages.append(
            f"{trainable:,} parameters are trained on only {trained_tokens:,.0f} tokens of answers "
            f"({trainable / trained_tokens:,.0f} per token), so they may memorise them. A smaller r is enough."
        )
    if epochs > 10:
        messages.append(f"Every example is seen {epochs:.0f} times; 1 to 3 is usual.")
    return messages
