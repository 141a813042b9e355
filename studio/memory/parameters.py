"""Number of parameters each method trains, exactly as PEFT counts them, and their size."""

from dataclasses import dataclass

from studio.memory.shapes import ModelShape
from studio.recipe import Recipe
from studio.recipe.fields.method import ia3_modules


@dataclass(frozen=True, slots=True)
class Trainable:
    """Trained parameters: their count, their bytes, and the element count of the largest tensor."""

    count: int
    bytes: int
    largest: int


def trainable(shape: ModelShape, recipe: Recipe) -> Trainable:
    """The parameters of `shape` that `recipe` trains."""
    method = recipe.method
    if method.method == "full":
        return Trainable(shape.parameters, 4 * shape.parameters, shape.elements[2])
    if method.method == "prompt":
        count = method.num_virtual_tokens * shape.hidden
        return Trainable(count, 4 * count, count)
    if method.method == "prefix":
        # PEFT stores keys and values for every layer, with the size of the model's own key heads.
        count = method.num_virtual_tokens * shape.layers * 2 * shape.kv_heads * shape.head_dim
        return Trainable(count, 4 * count, count)
    if method.method == "ia3":
        scaled, feedforward = ia3_modules(linear.module for linear, _ in shape.groups)
        factors = [
            (linear.in_features if linear.module in feedforward else linear.out_features, times)
            for linear, times in shape.groups
            if linear.module in scaled
        ]
        count = sum(size * times for size, times in factors)
        return Trainable(count, 4 * count, max((size for size, _ in factors), default=0))
    return _lora(shape, recipe)


def _lora(shape: ModelShape, recipe: Recipe) -> Trainable:
    """r * (in + out) per layer (Hu et al. 2021, section 4.1); DoRA adds a magnitude per output."""
    method, targets = recipe.method, recipe.method.target_modules
    layers = [(linear, times) for linear, times in shape.groups if targets == "all-linear" or linear.module in targets]
    narrow = 2 if recipe.quantization.quantization != "none" else 4
    matrices = sum(times * method.r * (linear.in_features + linear.out_features) for linear, times in layers)
    wide = sum(times * linear.out_features for linear, times in layers) if method.use_dora else 0
    if method.bias == "all":
        wide += sum(
            tensor.elements
            for tensor in shape.trained_tensors
            if tensor.name.endswith(".bias") or tensor.name == "bias"
        )
    elif method.bias == "lora_only":
        wide += sum(times * linear.out_features for linear, times in layers if linear.bias)
    largest = max((method.r * max(linear.in_features, linear.out_features) for linear, _ in layers), default=0)
    return Trainable(matrices + wide, matrices * narrow + 4 * wide, largest)
