"""Plain LoRA adapters of one base in one forward pass: each row of a batch is answered with its own.

PEFT can do this too (`adapter_names`), by gathering and scattering rows in every layer, which on a CPU takes longer
than the products. Here the adapters of a layer are stacked once, and a mask leaves each row the part that is its own:
two products a layer, whatever the number of rows. A row without adapter gets an exact zero.
What it does not do: load adapters, or choose which row has which.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from studio.engine.compat.peft import adapters_of, has_variant, is_whole_lora_linear, lora_layers


def can_serve(model: Any, adapter: str) -> bool:
    """Whether every layer that `adapter` changes in a PEFT model can be served here."""
    layers = [layer for layer in lora_layers(model) if adapter in adapters_of(layer)]
    return bool(layers) and all(is_whole_lora_linear(layer) and not has_variant(layer, adapter) for layer in layers)


class Serving:
    """What the rows of a batch are answered with, while in `serve`."""

    def __init__(self, model: Any, adapters: Sequence[str]) -> None:
        """adapters: PEFT's name for each row's, empty for a row of the plain base."""
        self._layers = lora_layers(model)
        self._adapters = list(adapters)
        self._masks: dict[tuple[tuple[str, float, int], ...], _Mask] = {}

    @contextlib.contextmanager
    def serve(self) -> Iterator["Serving"]:
        """Within, the model's layers answer each row with its adapter."""
        used = set(self._adapters)
        try:
            for layer in self._layers:
                # An attribute of the object stands before the method of its class.
                layer.forward = self._forward_of(layer, [name for name in layer.lora_A if name in used])
            yield self
        finally:
            for layer in self._layers:
                vars(layer).pop("forward", None)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows, by their place, go on."""
        self._adapters = [self._adapters[row] for row in rows]
        for mask in self._masks.values():
            mask.value = mask.value[list(rows)]

    def _forward_of(self, layer: Any, names: list[str]) -> Callable[..., Any]:
        import torch
        from torch.nn.functional import linear

        base = layer.base_layer
        if not names:
            return base.forward
        weight = base.weight
        parts = [(name, float(layer.scaling[name]), int(layer.r[name])) for name in names]
        mask = self._mask(tuple(parts), weight)
        downs = [layer.lora_A[name].weight for name in names]
        ups = [layer.lora_B[name].weight for name in names]
        down = (downs[0] if len(names) == 1 else torch.cat(downs, 0)).to(weight.dtype)
        up = (ups[0] if len(names) == 1 else torch.cat(ups, 1)).to(weight.dtype)
        answer: Callable[..., Any] = base.forward
        if type(base) is torch.nn.Linear:
            bias = base.bias

            def answer(x: Any) -> Any:
                return linear(x, weight, bias)

        def forward(x: Any, *_: Any, **__: Any) -> Any:
            return answer(x) + linear(linear(x, down) * mask.value, up)

        return forward

    def _mask(self, parts: tuple[tuple[str, float, int], ...], like: Any) -> "_Mask":
        """One for all layers that have these adapters with these scales and ranks."""
        import torch

        if parts not in self._masks:
            value = torch.zeros(len(self._adapters), 1, sum(rank for _, _, rank in parts), dtype=like.dtype)
            begin = 0
            for name, scale, rank in parts:
                for row, adapter in enumerate(self._adapters):
                    if adapter == name:
                        value[row, 0, begin : begin + rank] = scale
                begin += rank
            self._masks[parts] = _Mask(value.to(like.device))
        return self._masks[parts]


class _Mask:
    """The scale of each row's part, zero elsewhere; shared by layers and replaced when rows leave."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value
