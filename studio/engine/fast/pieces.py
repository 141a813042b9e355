"""Norms, gates and rotations of frozen weights, each with its own backward pass.

They save what they were given and compute the rest again, instead of keeping a copy of every step in between; whoever
would keep their answer may keep its Source instead, which is in memory anyway. And they go through the tokens in pieces
that stay in a core's cache, which on a CPU is most of their time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from studio.fast_path import PIECE


def pieces(x: Tensor) -> Iterator[slice]:
    """Stretches of x [tokens, ...] that are a piece for each thread, near enough; on a GPU all of it."""
    tokens, width = x.shape[0], x[0].numel()
    step = tokens if x.is_cuda else max(16, PIECE * torch.get_num_threads() // width)
    for first in range(0, tokens, step):
        yield slice(first, min(first + step, tokens))


@dataclass(frozen=True, slots=True)
class Source:
    """What a tensor is made of by `make`, to the bit: for a backward pass that needs it, in place of the tensor."""

    kept: tuple[Tensor, ...]
    make: Callable[..., Tensor]


class RmsNorm(torch.autograd.Function):
    """x * rsqrt(mean(x²) + eps) times a frozen weight, [n, width]; and the roots, [n, 1].

    The weight multiplies what was rounded to x's type, as llama's does; one in float32 before the rounding, as Gemma's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """dtype: of the answer, which the next products take."""
        answer = torch.empty_like(x, dtype=dtype)
        scales = x.new_empty(x.shape[0], 1, dtype=torch.float32)
        for piece in pieces(x):
            wide = x[piece].float()
            scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            scales[piece] = scale
            answer[piece] = _scaled(wide, scale, weight)
        ctx.save_for_backward(x, weight, scales)
        ctx.mark_non_differentiable(scales)
        return answer, scales

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        grad = gradients[0]
        x, weight, scales = ctx.saved_tensors
        d_x = torch.empty_like(x)
        for piece in pieces(x):
            scale = scales[piece]
            normed = x[piece].float() * scale
            wide = (grad[piece] * weight).float()
            along = torch.linalg.vecdot(wide, normed).div_(-x.shape[-1]).unsqueeze(-1)
            d_x[piece] = wide.addcmul_(normed, along).mul_(scale)
        return d_x, None, None, None


def normed(x: Tensor, weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """RmsNorm's answer from its roots."""
    answer = torch.empty_like(x, dtype=dtype)
    for piece in pieces(x):
        answer[piece] = _scaled(x[piece].float(), scales[piece], weight)
    return answer


def _scaled(wide: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    # Not in place: `wide` may be the norm's input itself.
    return (wide * scale).to(weight.dtype).mul_(weight)


class Gate(torch.autograd.Function):
    """act(gate) * up, [tokens, width]; act: "silu" or "gelu" (its tanh form)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return gated(gate, up, act)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        gate, up = ctx.saved_tensors
        d_gate, d_up = gate.new_empty(gate.shape), up.new_empty(up.shape)
        for piece in pieces(gate):
            torch.mul(_act(ctx.act, gate[piece]), grad[piece], out=d_up[piece])
            d_gate[piece] = _act_backward(ctx.act, grad[piece] * up[piece], gate[piece])
        return d_gate, d_up, None


def gated(gate: Tensor, up: Tensor, act: str) -> Tensor:
    """Gate's answer."""
    answer = up.new_empty(up.shape)
    for piece in pieces(gate):
        torch.mul(_act(act, gate[piece]), up[piece], out=answer[piece])
    return answer


def _act(act: str, x: Tensor) -> Tensor:
    return silu(x) if act == "silu" else gelu(x, approximate="tanh")


def _act_backward(act: str, grad: Tensor, x: Tensor) -> Tensor:
    aten = torch.ops.aten
    return aten.silu_backward(grad, x) if act == "silu" else aten.gelu_backward(grad, x, approximate="tanh")


class Rotate(torch.autograd.Function):
    """Rotary positions: x [tokens, heads, d], cos and sin [tokens, d] to [heads, tokens, d]; halves of d pair up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        tokens, heads, width = x.shape
        answer = x.new_empty(heads, tokens, width)
        _rotate(x, cos, sin, answer.transpose(0, 1), 1)
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        cos, sin = ctx.saved_tensors
        d_x = grad.new_empty(grad.shape[1], grad.shape[0], grad.shape[2])
        _rotate(grad.transpose(0, 1), cos, sin, d_x, -1)
        return d_x, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, answer: Tensor, sign: int) -> None:
    """x turned by the angles, or back by them, into answer: all [tokens, heads, d]."""
    half = x.shape[-1] // 2
    for piece in pieces(x):
        c, s = cos[piece, None, :half], sin[piece, None, :half]
        first, second = x[piece, :, :half], x[piece, :, half:]
        torch.mul(first, c, out=answer[piece, :, :half])
        answer[piece, :, :half].addcmul_(second, s, value=-sign)
        torch.mul(second, c, out=answer[piece, :, half:])
        answer[piece, :, half:].addcmul_(first, s, value=sign)
