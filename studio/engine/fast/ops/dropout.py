"""Dropout with decisions from a shared random pool.

On a CPU, drawing random numbers takes longer than the matrix products. So each pass of a model draws a pool of
decisions once, and every layer reads as many as it needs from a random offset: they are independent within a layer and
nearly so between layers. A decision is a number with all bits set (keep) or none (drop), so it is applied with one
`and`, and the backward pass needs only the offset.
"""

import torch
from torch import Tensor

from studio.recipe.fast_path import POOL

_BITS = {2: torch.int16, 4: torch.int32}
_GRAIN = 32  # masks start at multiples of it, on a cache line


class Pool:
    """Decisions that drop with probability `chance` (to 1/65536), for numbers of the size of `like`'s dtype."""

    def __init__(self, chance: float, like: Tensor, largest: int) -> None:
        """largest: maximum number of inputs of a layer."""
        self.kind = _BITS[like.element_size()]
        count = max(POOL, largest + largest // 4)
        drawn = (
            torch.empty((count + 3) // 4, dtype=torch.int64, device=like.device)
            .random_(-(2**63), None)
            .view(torch.int16)[:count]
        )
        limit = round(chance * 65536) - 32768
        # -1 where a number is at least the limit, else 0; for int16, clamping is faster than comparing.
        kept = drawn.clamp_(limit - 1, limit).sub_(limit).bitwise_not_() if limit > -32768 else drawn.fill_(-1)
        self._kept = kept.to(self.kind)

    def place(self, numbers: int) -> int:
        """Return a random offset for this many decisions."""
        return _GRAIN * int(torch.randint((self._kept.numel() - numbers) // _GRAIN + 1, ()))

    def drop(self, x: Tensor, place: int) -> Tensor:
        """Return x (contiguous) with dropped numbers set to 0; kept numbers are not scaled."""
        return (x.view(self.kind) & self._stretch(x, place)).view(x.dtype)

    def drop_(self, x: Tensor, place: int) -> Tensor:
        """Drop in place."""
        x.view(self.kind).bitwise_and_(self._stretch(x, place))
        return x

    def _stretch(self, x: Tensor, place: int) -> Tensor:
        return self._kept[place : place + x.numel()].view(x.shape)
