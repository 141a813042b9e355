"""Norms, gates and rotations with frozen weights, each with its own backward pass.

They save their inputs and recompute the rest, instead of storing every intermediate result. A function that would save
their output can save its Source instead, which is in memory anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast.ops.torch_ops import Arithmetic


@dataclass(frozen=True, slots=True)
class Source:
    """How to recompute a tensor bit for bit as make(*kept), for a backward pass that needs it."""

    kept: tuple[Tensor, ...]
    make: Callable[..., Tensor]


class RmsNorm(torch.autograd.Function):
    """Arithmetic.norm of x [n, width] with a frozen weight: the output and the reciprocal roots."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, by: Arithmetic
    ) -> tuple[Tensor, Tensor]:
        """dtype: type of the output, as the next products need it."""
        answer, scales = by.norm(x, weight, eps, dtype)
        ctx.save_for_backward(x, weight, scales)
        ctx.by = by
        ctx.mark_non_differentiable(scales)
        return answer, scales

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, scales = ctx.saved_tensors
        return ctx.by.norm_backward(gradients[0], x, weight, scales), None, None, None, None


class Gate(torch.autograd.Function):
    """Arithmetic.gated with its backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: str, by: Arithmetic) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act, ctx.by = act, by
        return by.gated(gate, up, act)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return *ctx.by.gated_backward(gradients[0], *ctx.saved_tensors, ctx.act), None, None


class Rotate(torch.autograd.Function):
    """Rotary positions: from x [tokens, heads, d], cos and sin [tokens, d] to [heads, tokens, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, by: Arithmetic) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.by = by
        tokens, heads, width = x.shape
        answer = x.new_empty(heads, tokens, width)
        by.rotate(x, cos, sin, answer.transpose(0, 1), 1)
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        cos, sin = ctx.saved_tensors
        d_x = grad.new_empty(grad.shape[1], grad.shape[0], grad.shape[2])
        ctx.by.rotate(grad.transpose(0, 1), cos, sin, d_x, -1)
        return d_x, None, None, None
