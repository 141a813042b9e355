"""Dropout from a pool of random decisions.

On a CPU drawing a number takes longer than the products it is for. So each pass of a model draws a pool of decisions
once, and every layer takes as many of them as it needs from a random place: within a layer they are independent, and
between layers as good as. A decision is a number with all bits set (keep) or none (drop), so that it is applied with
one `and`, and the backward pass needs the place alone.
"""

import torch
from torch import Tensor

from studio.recipe.fast_path import POOL

_BITS = {2: torch.int16, 4: torch.int32}
_GRAIN = 32  # a mask begins at a multiple of it, on a cache line


class Pool:
    """Decisions that drop with probability `chance` (to 1/65536), for numbers as wide as `like`'s."""

    def __init__(self, chance: float, like: Tensor, largest: int) -> None:
        """largest: the most numbers that a layer has."""
        self.kind = _BITS[like.element_size()]
        count = max(POOL, largest + largest // 4)
        drawn = (
            torch.empty((count + 3) // 4, dtype=torch.int64, device=like.device)
            .random_(-(2**63), None)
            .view(torch.int16)[:count]
        )
        limit = round(chance * 65536) - 32768
        # -1 where a number is at least the limit, else 0; of int16, clamping is quicker than comparing.
        kept = drawn.clamp_(limit - 1, limit).sub_(limit).bitwise_not_() if limit > -32768 else drawn.fill_(-1)
        self._kept = kept.to(self.kind)

    def place(self, numbers: int) -> int:
        """A random place to take so many decisions from."""
        return _GRAIN * int(torch.randint((self._kept.numel() - numbers) // _GRAIN + 1, ()))

    def drop(self, x: Tensor, place: int) -> Tensor:
        """x, contiguous, with 0 for what is dropped; what is kept is not made larger."""
        return (x.view(self.kind) & self._stretch(x, place)).view(x.dtype)

    def drop_(self, x: Tensor, place: int) -> Tensor:
        """The same in place."""
        x.view(self.kind).bitwise_and_(self._stretch(x, place))
        return x

    def _stretch(self, x: Tensor, place: int) -> Tensor:
        return self._kept[place : place + x.numel()].view(x.shape)
