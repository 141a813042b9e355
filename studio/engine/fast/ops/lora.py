"""Linear layers with LoRA adapters as one autograd function.

Layers with the same input (query, key, value; gate, up) are computed together: dropout and the product with all their
A matrices are done once, so they drop the same numbers. The backward pass saves that input, or how to recompute it
(norms.Source), and r numbers per token and layer; frozen weights get no gradient. Products are in the base's
dtype; the adapter and its gradients keep theirs: the result of autocast, without its copies. Not supported: LoRA
variants (DoRA), several adapters at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast.ops.dropout import Pool
from studio.engine.fast.ops.matmul import add_product_, product
from studio.engine.fast.ops.norms import Source
from studio.engine.fast.ops.prepacked import Weight

Pools = Callable[[float, Tensor], Pool | None]


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear layer with its frozen weight.

    rounds_once: add base and adapter before rounding. Otherwise the base's output is rounded first, and a contribution
    of the adapter below half of its last bit is lost, as in the reference wherever that adds in bfloat16. Where the
    reference adds in float32, losing it makes a run learn visibly slower.
    """

    weight: Weight
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scaling: float
    rounds_once: bool = False

    def answer(self, x: Tensor, inner: Tensor, high: Tensor, scale: float) -> Tensor:
        """Apply base and adapter to x [tokens, in]; inner [tokens, r]: x times A; high: B in x's dtype."""
        if self.rounds_once:
            answer = add_product_(product(inner * scale, high.t()), x, self.weight.make().t())
            return answer if self.bias is None else answer.add_(self.bias.to(x.dtype))
        return add_product_(self.weight.through(x, self.bias), inner, high.t(), scale)


class LoraLinears(torch.autograd.Function):
    """From x [tokens, in] to [tokens, out] per layer; trained: A and B of each layer in order, for their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layers: tuple[Layer, ...],
        larger: float,
        pool: Pool | None,
        source: Source | None,
        *trained: Tensor,
    ) -> tuple[Tensor, ...]:
        """larger: dropout's scale for kept numbers; pool: None for no dropout; source: that of x, if it has one."""
        lows, highs = (
            torch.cat([layer.down for layer in layers]).to(x.dtype),
            [layer.up.to(x.dtype) for layer in layers],
        )
        ctx.place = pool.place(x.numel()) if pool else 0
        inner = product(pool.drop(x, ctx.place) if pool else x, lows.t()).split(
            [len(layer.down) for layer in layers], 1
        )
        answers = []
        for layer, part, high in zip(layers, inner, highs, strict=True):
            answers.append(layer.answer(x, part, high, layer.scaling * larger))
        ctx.make = source.make if source else None
        ctx.save_for_backward(lows, *inner, *highs, *(source.kept if source else (x,)))
        ctx.layers, ctx.larger, ctx.pool = layers, larger, pool
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        lows, *saved = ctx.saved_tensors
        layers, pool, count = ctx.layers, ctx.pool, len(ctx.layers)
        inner, highs, kept = saved[:count], saved[count : 2 * count], saved[2 * count :]
        parts, d_ups = [], []
        for layer, grad, part, high in zip(layers, gradients, inner, highs, strict=True):
            scale = layer.scaling * ctx.larger
            parts.append(product(grad, high).mul_(scale))
            d_ups.append(product(part.t(), grad).t().to(layer.up.dtype).mul_(scale))
        d_inner = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = product(d_inner, lows)
            if pool:
                pool.drop_(d_x, ctx.place)
            for layer, grad in zip(layers, gradients, strict=True):
                d_x = layer.weight.add_back(d_x, grad)
        d_lows = product(d_inner.t(), LoraLinears._multiplied(ctx, kept, lows.dtype))
        d_downs = d_lows.to(layers[0].down.dtype).split([len(layer.down) for layer in layers])
        trained = [grad for pair in zip(d_downs, d_ups, strict=True) for grad in pair]
        return d_x, None, None, None, None, *trained

    @staticmethod
    def _multiplied(ctx: Any, kept: list[Tensor], dtype: torch.dtype) -> Tensor:
        """The input that was multiplied with A: x after dropout."""
        if ctx.make is None:
            return ctx.pool.drop(kept[0], ctx.place) if ctx.pool else kept[0]
        x: Tensor = ctx.make(*kept).to(dtype)
        return ctx.pool.drop_(x, ctx.place) if ctx.pool else x


class Frozen(torch.autograd.Function):
    """Apply a layer without an adapter to x [..., in]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return weight.through(x.flatten(0, -2), bias).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        return ctx.weight.back(grad.flatten(0, -2)).unflatten(0, grad.shape[:-1]), None, None


@dataclass(slots=True)
class Together:
    """Layers whose modules are called in turn with the same input: the first call computes all."""

    layers: tuple[Layer, ...]
    chance: float  # dropout probability
    _of: Any = None
    _waiting: dict[int, Tensor] = field(default_factory=dict)

    def answer(
        self, number: int, given: Any, source: Source | None, compute: torch.dtype, pools: Pools, training: bool
    ) -> Any:
        """Return the output of one layer; given: its module's input. Dropout applies in training only."""
        if self._of is not given or number not in self._waiting:
            flat = given.reshape(-1, given.shape[-1]).to(compute)
            trained = [matrix for layer in self.layers for matrix in (layer.down, layer.up)]
            chance = self.chance if training else 0.0
            outputs = LoraLinears.apply(flat, self.layers, 1 / (1 - chance), pools(chance, flat), source, *trained)
            self._of, self._waiting = given, dict(enumerate(outputs))
        answer = self._waiting.pop(number)
        if not self._waiting:
            self._of = None
        return answer.view(*given.shape[:-1], answer.shape[-1])
