"""What a person should know before starting: warnings with numbers, what fits, and what would make it fit."""

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

_LONGEST = 131_072  # where a config names no limit
_LARGEST_BATCH = 4096
_TRIES = 6
# Parameters trained for each token that is learned from, beyond which data is little for them.
_MANY_PARAMETERS = 1000


@dataclass(frozen=True, slots=True)
class Fix:
    """A change that saves memory. values: field names and what to set; saved: bytes; enough: whether it then fits."""

    values: dict[str, Any]
    words: str
    saved: int
    price: str
    enough: bool


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about: a model, a recipe, examples of `longest` tokens, a device with `available` bytes.

    correction: what a dry run showed that the bytes which come and go are to be multiplied with.
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
        found = memory.footprint(self.shape, recipe, self.device, longest or self.longest, self.share, self.processor)
        return found.corrected(self.correction)


def needed(found: Footprint) -> int:
    """Bytes that must be free: paged states make way."""
    return found.total - found.pageable


def largest_batch(asked: Question) -> int:
    """The largest per_device_train_batch_size that fits; 0 when not even 1 does."""

    def size(batch: int) -> int:
        schedule = asked.recipe.schedule.model_copy(update={"per_device_train_batch_size": batch})
        return needed(asked.footprint(asked.recipe.model_copy(update={"schedule": schedule})))

    return _most(size, asked.available, 1, _LARGEST_BATCH)


def longest_length(asked: Question) -> int:
    """The longest max_length that fits, were there examples that long; 0 when not even 8 tokens do."""

    def size(length: int) -> int:
        data = asked.recipe.data.model_copy(update={"max_length": length})
        return needed(asked.footprint(asked.recipe.model_copy(update={"data": data}), length))

    return _most(size, asked.available, 8, asked.shape.max_positions or _LONGEST)


def _most(size: Callable[[int], int], room: int, low: int, high: int) -> int:
    """The largest number from low to high whose size is at most `room`: interpolated, as sizes grow almost evenly.

    After a few tries the largest that was seen to fit is good enough. 0 when `low` does not fit.
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
            guess = (low + high) // 2  # where growth is uneven, halves still end
        guess = min(max(guess, low + 1), high - 1)
        found = size(guess)
        if found <= room:
            low, below = guess, found
            # The next one up settles it where growth is even.
            if low + 1 < high and (step := size(low + 1)) > room:
                high, above = low + 1, step
        else:
            high, above = guess, found
    return low


def fixes(asked: Question, found: Footprint) -> list[Fix]:
    """Changes that save memory, the largest saving first."""
    made = []
    for values, words, price in _changes(asked):
        try:
            changed = asked.recipe.with_values(values)
        except BadInput:
            continue  # does not go with the rest of the recipe
        after = needed(asked.footprint(changed, min(asked.longest, changed.data.max_length)))
        if after < needed(found):
            made.append(Fix(values, words, needed(found) - after, price, after <= asked.available))
    return sorted(made, key=lambda fix: fix.saved, reverse=True)


def _changes(asked: Question) -> list[tuple[dict[str, Any], str, str]]:
    recipe, schedule = asked.recipe, asked.recipe.schedule
    changes: list[tuple[dict[str, Any], str, str]] = []
    if not schedule.gradient_checkpointing:
        changes.append(({"gradient_checkpointing": True}, "turn on gradient_checkpointing", "about 30% slower"))
    if recipe.method.method == "full":
        changes.append(({"method": "lora"}, "train an adapter, method lora", "up to 5% worse on large changes"))
    elif not recipe.quantization.four_bit:
        changes.append(({"quantization": "nf4"}, "hold the base in NF4", "up to a third slower"))
    elif not recipe.quantization.bnb_4bit_use_double_quant:
        changes.append(({"bnb_4bit_use_double_quant": True}, "quantize the scales as well", "hardly any"))
    if schedule.per_device_train_batch_size > 1:
        single = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": recipe.effective_batch}
        changes.append((single, "batch size 1 with more accumulation", "learns the same, somewhat slower"))
    half = max(8, min(recipe.data.max_length, asked.longest) // 2)
    changes.append(({"max_length": half}, f"halve max_length to {half}", "longer examples are cut"))
    if recipe.model.dtype == "float32":
        changes.append(({"dtype": "bfloat16"}, "weights in bfloat16", "3 instead of 7 digits"))
    if asked.device == "cuda" and recipe.optimizer.optim != "paged_adamw_8bit":
        changes.append(({"optim": "paged_adamw_8bit"}, "optimizer states in 8 bits, paged", "hardly any"))
    if recipe.evaluation.per_device_eval_batch_size > 1:
        changes.append(({"per_device_eval_batch_size": 1}, "evaluate one example at once", "evaluations take longer"))
    return changes + _of_adapter(asked)


def _of_adapter(asked: Question) -> list[tuple[dict[str, Any], str, str]]:
    method, changes = asked.recipe.method, list[tuple[dict[str, Any], str, str]]()
    if method.method != "lora":
        return changes
    if method.use_dora:
        changes.append(({"use_dora": False}, "plain LoRA instead of DoRA", "a little worse below r 16"))
    if method.lora_dropout:
        changes.append(({"lora_dropout": 0}, "no dropout", "less against overfitting"))
    if method.r > 8:
        values = {"r": 8, "lora_alpha": max(1, round(method.lora_alpha * 8 / method.r))}
        changes.append((values, "rank 8 at the same scale", "less room for hard tasks"))
    few = [name for name in ("q_proj", "v_proj") if name in asked.shape.modules]
    if method.target_modules == "all-linear" and few:
        changes.append(({"target_modules": few}, f"adapt {' and '.join(few)} only", "1 to 3% worse on hard tasks"))
    return changes


def as_text(found: list[Fix]) -> list[str]:
    """The three that save most, as sentences."""
    return [f"{fix.words}: {fix.saved / GIB:.1f} GiB less, {fix.price}" for fix in found[:3]]


def warnings(asked: Question, sizes: Lengths | None, examples: int, trainable: int, now: Machine) -> list[str]:
    """What is unusual about the recipe, with numbers."""
    recipe, shape = asked.recipe, asked.shape
    found = [*_rates(recipe, shape), *_strength(recipe, shape)]
    if shape.max_positions and recipe.data.max_length > shape.max_positions:
        found.append(
            f"max_length {recipe.data.max_length} is beyond the {shape.max_positions} positions of {shape.name}."
        )
    if sizes is not None:
        found += _of_data(recipe, sizes, examples, trainable)
    if asked.device == "cpu" and shape.parameters > 2e9:
        found.append(f"{shape.parameters / 1e9:.1f} B parameters train very slowly on a CPU.")
    if asked.device == "cpu" and recipe.model.dtype == "bfloat16" and not now.bf16_fast:
        reason = why_not(recipe, shape.config, cuda=False)
        if reason:
            found.append(f"This processor has no bfloat16 arithmetic, so float32 would be much faster. {reason}")
    return found


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
    method, found = recipe.method, []
    if method.method == "lora":
        if not 0.25 <= method.scale <= 8:
            word = "lora_alpha / sqrt(r)" if method.use_rslora else "lora_alpha / r"
            found.append(f"The scale {word} is {method.scale:g}; 0.5 to 4 is usual.")
        if method.use_dora:
            found.append("use_dora makes a step up to twice as long.")
        if method.use_dora and method.lora_dropout:
            found.append("use_dora with lora_dropout above 0 keeps a second copy of every adapted layer's weight.")
    if method.method in ("prompt", "prefix") and shape.parameters < 2e9:
        found.append(
            f"Method {method.method} suits models of several billion parameters (Lester et al. 2021); "
            f"{shape.name} has {shape.parameters / 1e9:.2g} billion."
        )
    return found


def _of_data(recipe: Recipe, sizes: Lengths, examples: int, trainable: int) -> list[str]:
    found = []
    if sizes.longest > recipe.data.max_length:
        found.append(f"The longest example has {sizes.longest} tokens and is cut at {recipe.data.max_length}.")
    seen = float(recipe.schedule.num_train_epochs)
    if recipe.schedule.max_steps > 0:
        seen = recipe.schedule.max_steps * recipe.effective_batch / max(1, examples)
        if seen < 0.1:
            found.append(f"{recipe.schedule.max_steps} steps see {seen:.0%} of the examples.")
    learned = max(1.0, examples * sizes.mean * sizes.trained_share)
    if trainable > _MANY_PARAMETERS * learned:
        found.append(
            f"{trainable:,} parameters are trained on {learned:,.0f} tokens of answers, {trainable / learned:,.0f} to "
            "one: they may learn them by heart. A smaller r is enough."
        )
    if seen > 10:
        found.append(f"Every example is seen {seen:.0f} times; 1 to 3 is usual.")
    return found
