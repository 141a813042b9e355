"""Norms, gates and the head's loss with Liger's kernels, on an NVIDIA GPU with that package installed.

The operators are called as documented for liger-kernel 0.8. They have never run on a GPU (benchmarks/RESULTS.md);
tests/integration/test_fast.py compares them with the reference in Triton's interpreter on a CPU. Rotations and
attention stay torch's.
"""

import functools

import torch
from torch import Tensor

from studio.engine.compat.liger_kernel import Operations
from studio.engine.fast.ops.prepacked import Weight
from studio.engine.fast.ops.torch_ops import Arithmetic


class Liger(Arithmetic):
    """The operations with Liger, and with torch where Liger does not apply."""

    def __init__(self) -> None:
        """Raises ImportError if Liger is not installed or finds no Triton."""
        self._operations = Operations()

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # A float32 residual stream, as with a 4-bit base, is rounded after the norm; Gemma's is not rounded before it.
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
        """Gradients of gate and up, written in their place, as they are not needed any more."""
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
    """Return this process's operations for an NVIDIA GPU, and the reason if they are torch's."""
    try:
        return Liger(), ""
    except ImportError as error:
        return Arithmetic(), f"Liger is not installed: {error}"


def _whole(*tensors: Tensor) -> bool:
    """Whether the tensors have the same dtype and are contiguous, as the kernels require."""
    return len({tensor.dtype for tensor in tensors}) == 1 and all(tensor.is_contiguous() for tensor in tensors)


def _normed(x: Tensor, weight: Tensor) -> bool:
    """Whether Liger supports this norm: llama's or Gemma's, on contiguous input."""
    return x.is_contiguous() and weight.dtype in (x.dtype, torch.float32)


def _casting(x: Tensor, weight: Tensor) -> str:
    """Liger's casting mode: llama rounds before the weight multiplies, gemma after it (see Arithmetic.norm)."""
    return "llama" if weight.dtype == x.dtype else "gemma"
