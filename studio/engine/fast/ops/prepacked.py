"""A frozen weight as the fast path multiplies with it.

oneDNN's loops read a weight in an order of their own and bring an ordinary one into it in every product, more than once
where there are many tokens. Laid out, a weight is held in that order beside the model's own, and what comes out is the
same to the bit (benchmarks/RESULTS.md).
"""

from collections.abc import Callable

from torch import Tensor

from studio.engine.compat.torch import laid_out, onednn_product, onednn_product_added
from studio.engine.fast.ops.matmul import add_product_, product

Making = Callable[[Callable[[], Tensor]], "Weight"]  # of a weight, by what makes its numbers
_TOKENS = 1024  # for which oneDNN chooses its order; one number for all, so that a run that goes on has the same


class Weight:
    """A weight [out, in]; `make` is called for it when it is needed, so that no copy is kept."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make

    def through(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [n, in] to [n, out]."""
        return product(x, self.make().t(), bias)

    def back(self, grad: Tensor) -> Tensor:
        """grad [n, out] to [n, in]."""
        return product(grad, self.make())

    def add_back(self, to: Tensor, grad: Tensor) -> Tensor:
        """`to` [n, in] and what grad [n, out] becomes; `to` is the answer's to have."""
        return add_product_(to, grad, self.make())

    def lay_out(self) -> None:
        """Hold it as products read it, too, where that is the kind of it."""

    def made(self) -> "Weight":
        """The same, made once for a few products."""
        weight = self.make()
        return Weight(lambda: weight)


class Prepacked(Weight):
    """One that is laid out for what goes through it, once `lay_out` was called."""

    _through: Tensor | None = None

    def lay_out(self) -> None:
        self._through = laid_out(self.make(), _TOKENS)

    def through(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # Of one token alone oneDNN sums up in another order by a weight laid out.
        if self._through is None or len(x) == 1:
            return super().through(x, bias)
        return onednn_product(x, self._through, None if bias is None else bias.to(x.dtype))

    def made(self) -> Weight:
        return self


class PrepackedBothWays(Prepacked):
    """One that is laid out for gradients too."""

    _back: Tensor | None = None

    def lay_out(self) -> None:
        super().lay_out()
        self._back = laid_out(self.make().t(), _TOKENS)

    def back(self, grad: Tensor) -> Tensor:
        return super().back(grad) if self._back is None else onednn_product(grad, self._back)

    def add_back(self, to: Tensor, grad: Tensor) -> Tensor:
        if self._back is None:
            return super().add_back(to, grad)
        # As one product: added before it is rounded.
        return onednn_product_added(grad, to, self._back)
