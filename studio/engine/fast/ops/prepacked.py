"""Frozen weights for the fast path's matrix products, optionally prepacked for oneDNN.

oneDNN reads weights in its own layout and converts an ordinary one in every product, several times if there are many
tokens. A prepacked weight is an additional copy in that layout; results are the same bit for bit
(benchmarks/RESULTS.md).
"""

from collections.abc import Callable

from torch import Tensor

from studio.engine.compat.torch import laid_out, onednn_product, onednn_product_added
from studio.engine.fast.ops.matmul import add_product_, product

Making = Callable[[Callable[[], Tensor]], "Weight"]  # builds a Weight from a function that returns its tensor
_TOKENS = 1024  # oneDNN chooses its layout for this number; fixed, so that a resumed run uses the same layout


class Weight:
    """A weight [out, in]; `make` returns its tensor on demand, so that no copy is kept."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make

    def through(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x [n, in] with the weight: [n, out]."""
        return product(x, self.make().t(), bias)

    def back(self, grad: Tensor) -> Tensor:
        """Multiply grad [n, out] with the transposed weight: [n, in]."""
        return product(grad, self.make())

    def add_back(self, to: Tensor, grad: Tensor) -> Tensor:
        """Add `back(grad)` of grad [n, out] to `to` [n, in]; `to` may be overwritten."""
        return add_product_(to, grad, self.make())

    def lay_out(self) -> None:
        """Prepack the weight; does nothing for this class."""

    def made(self) -> "Weight":
        """Return a weight whose tensor is made once, for several products."""
        weight = self.make()
        return Weight(lambda: weight)


class Prepacked(Weight):
    """A weight prepacked for the forward pass after a call to `lay_out`."""

    _through: Tensor | None = None

    def lay_out(self) -> None:
        self._through = laid_out(self.make(), _TOKENS)

    def through(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # For a single token, oneDNN sums in another order with a prepacked weight.
        if self._through is None or len(x) == 1:
            return super().through(x, bias)
        return onednn_product(x, self._through, None if bias is None else bias.to(x.dtype))

    def made(self) -> Weight:
        return self


class PrepackedBothWays(Prepacked):
    """A weight prepacked for the backward pass too."""

    _back: Tensor | None = None

    def lay_out(self) -> None:
        super().lay_out()
        self._back = laid_out(self.make().t(), _TOKENS)

    def back(self, grad: Tensor) -> Tensor:
        return super().back(grad) if self._back is None else onednn_product(grad, self._back)

    def add_back(self, to: Tensor, grad: Tensor) -> Tensor:
        if self._back is None:
            return super().add_back(to, grad)
        # In one product, so that it is added before rounding.
        return onednn_product_added(grad, to, self._back)
