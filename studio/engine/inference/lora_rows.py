"""Several plain LoRA adapters of one base in one forward pass, one adapter per row of the batch.

PEFT can do this too (`adapter_names`), but it gathers and scatters rows in every layer, which on a CPU takes longer
than the matrix products. Here the adapters of a layer are stacked once, and a mask selects each row's own part: two
products per layer for any number of rows. A row without an adapter gets exactly zero. Adapters are loaded and assigned
to rows elsewhere.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from studio.engine.compat.peft import adapters_of, has_variant, is_whole_lora_linear, lora_layers


def can_serve(model: Any, adapter: str) -> bool:
    """Whether all layers that `adapter` changes in a PEFT model are supported."""
    layers = [layer for layer in lora_layers(model) if adapter in adapters_of(layer)]
    return bool(layers) and all(is_whole_lora_linear(layer) and not has_variant(layer, adapter) for layer in layers)


class Serving:
    """The adapters of a batch's rows, active inside `serve`."""

    def __init__(self, model: Any, adapters: Sequence[str]) -> None:
        """adapters: PEFT's adapter name for each row; empty for the plain base."""
        self._layers = lora_layers(model)
        self._adapters = list(adapters)
        self._masks: dict[tuple[tuple[str, float, int], ...], _Mask] = {}

    @contextlib.contextmanager
    def serve(self) -> Iterator["Serving"]:
        """Apply each row's adapter in the model's layers inside the context."""
        used = set(self._adapters)
        try:
            for layer in self._layers:
                # An instance attribute takes precedence over the method of the class.
                layer.forward = self._forward_of(layer, [name for name in layer.lora_A if name in used])
            yield self
        finally:
            for layer in self._layers:
                vars(layer).pop("forward", None)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with only these rows, given by index."""
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
        """Return the mask shared by all layers that have these adapters with these scales and ranks."""
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
    """Scale of each row's own part, zero elsewhere; shared by layers, replaced when rows finish."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value
