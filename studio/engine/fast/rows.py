"""Where the rows of a batch without padding lie, and what their tokens see of one another."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.fast_path import blocks


@dataclass(slots=True)
class Rows:
    """Where the rows of a batch begin and how long they are, in tokens; and the masks of their blocks."""

    lengths: list[int]
    _masks: dict[tuple[int, int, int, torch.dtype, Any], Tensor] = field(default_factory=dict)
    _bounds: Tensor | None = None

    def blocks(self, window: int | None) -> Iterator[tuple[int, int, int]]:
        """(first query, end of the queries, first key) of each block, counted over the whole batch."""
        start = 0
        for length in self.lengths:
            for first, end in blocks(length):
                seen = 0 if window is None else max(0, first - window + 1)
                yield start + first, start + end, start + seen
            start += length

    def bounds(self, like: Tensor) -> Tensor:
        """Where each row begins, and the last one ends: int32, made once a batch."""
        if self._bounds is None:
            ends = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._bounds = ends.to(like.device)
        return self._bounds

    def mask(self, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
        """0 where a query of the block sees a key and -inf elsewhere; the last query stands on the last key."""
        key = (queries, keys, window or 0, like.dtype, like.device)
        if key not in self._masks:
            place = torch.arange(keys - queries, keys, device=like.device)[:, None]
            other = torch.arange(keys, device=like.device)[None]
            hidden = other > place
            if window is not None:
                hidden |= other <= place - window
            self._masks[key] = torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(
                hidden, float("-inf")
            )
        return self._masks[key]
