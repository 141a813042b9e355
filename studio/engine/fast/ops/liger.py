"""Norms, gates and the loss of the head by Liger's kernels, where that package is installed: on an NVIDIA GPU.

They are called as liger-kernel 0.8 documents its operators. On a GPU they have never run (benchmarks/RESULTS.md); by
Triton's interpreter, on a CPU, they are held against the reference (tests/integration/test_fast.py). What it does not
do: rotations and attention, which are torch's.
"""

import functools

import torch
from torch import Tensor

from studio.engine.compat.liger_kernel import Operations
from studio.engine.fast.ops.prepacked import Weight
from studio.engine.fast.ops.torch_ops import Arithmetic


class Liger(Arithmetic):
    """By Liger; what it is not made for by torch."""

    def __init__(self) -> None:
        """Raises ImportError where it is not installed, or finds no Triton."""
        self._operations = Operations()

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # A sum that goes on in float32, as over a base in 4 bits, is rounded behind the norm; Gemma's not before it.
        if not _normed(x, weight) or (weight.dtype != x.dtype and dtype != x.dtype):
            return super().norm(x, weight, eps, dtype)
        answer, scales = self._operations.norm(x, weight, eps, _casting(x, weight))
        return answer.to(dtype), scales.unsqueeze(-1)

    def norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        if not _normed(x, weight):
            return super().norm_backward(grad, x, weight, scales)
        wide, roots = grad.to(x.dtype).contiguous(), scales.squeeze(-1)
        return self._operations.norm_backward(wide, x, weight, roots, _casting(x, weight))

    def gated(self, gate: Tensor, up: Tensor, act: str) -> Tensor:
        if not _whole(gate, up):
            return super().gated(gate, up, act)
        return self._operations.gated(gate, up, act)

    def gated_backward(self, grad: Tensor, gate: Tensor, up: Tensor, act: str) -> tuple[Tensor, Tensor]:
        """The gradients take the place of gate and up, which nobody needs behind this."""
        if not _whole(grad, gate, up):
            return super().gated_backward(grad, gate, up, act)
        return self._operations.gated_backward(grad, gate, up, act)

    def token_scores(
        self, hidden: Tensor, weight: Weight, labels: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        words = weight.make()
        if not _whole(hidden, words):
            return super().token_scores(hidden, weight, labels, learns)
        losses, right, pull = self._operations.token_losses(hidden, words, labels, learns)
        return losses.neg_(), right > 0, pull


@functools.cache
def liger() -> tuple[Arithmetic, str]:
    """The arithmetic of this process on an NVIDIA GPU, and why it is torch's where it is."""
    try:
        return Liger(), ""
    except ImportError as error:
        return Arithmetic(), f"Liger is not installed: {error}"


def _whole(*tensors: Tensor) -> bool:
    """Whether they are of one type and lie whole in memory, as the kernels take them to."""
    return len({one.dtype for one in tensors}) == 1 and all(one.is_contiguous() for one in tensors)


def _normed(x: Tensor, weight: Tensor) -> bool:
    """Whether Liger has this norm: llama's or Gemma's, of numbers that lie whole in memory."""
    return x.is_contiguous() and weight.dtype in (x.dtype, torch.float32)


def _casting(x: Tensor, weight: Tensor) -> str:
    """Whose norm it is: llama's rounds before the weight multiplies, Gemma's behind it (see Arithmetic.norm)."""
    return "llama" if weight.dtype == x.dtype else "gemma"
