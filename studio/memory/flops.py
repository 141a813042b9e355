"""Floating-point operations of training, counted from shapes.

A matrix product with a weight takes 2 operations per parameter and token forward (Kaplan et al. 2020, section 2.1).
Backward it takes 2 for the gradient of its input, and 2 more only if the weight itself is trained: a frozen base costs
4 instead of 6. Checkpointing repeats the forward pass of the blocks. The products inside attention take
4 * length * width per token and block. The head processes trained tokens only, and TRL's recomputes its logits in the
backward pass.
"""

from studio.memory.parameters import trainable
from studio.memory.shapes import ModelShape
from studio.recipe import Recipe


def per_token(shape: ModelShape, recipe: Recipe, length: float, trained_share: float) -> float:
    """Operations per token of an example of `length` tokens in one training step."""
    method = recipe.method.method
    linear = float(shape.elements[0])
    adapter = float(trainable(shape, recipe).count) if method == "lora" else 0.0
    forward = 2 * linear + 2 * adapter + 4 * length * shape.heads * shape.head_dim * shape.layers
    backward = forward + 2 * adapter + 4 * length * shape.heads * shape.head_dim * shape.layers
    if method == "full":
        backward += 2 * linear
    again = forward if recipe.schedule.gradient_checkpointing else 0.0
    head = 2.0 * shape.vocabulary * shape.hidden * (4 if method == "full" else 3)
    return forward + backward + again + head * trained_share
