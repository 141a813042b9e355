"""Norms, gates and the loss of the head by Liger's kernels, where that package is installed: on an NVIDIA GPU.

They are called as liger-kernel 0.8 documents its operators. On a GPU they have never run (benchmarks/RESULTS.md); by
Triton's interpreter, on a CPU, they are held against the reference (tests/integration/test_fast.py). What it does not
do: rotations and attention, which are torch's.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast.ops.prepacked import Weight
from studio.engine.fast.ops.torch_ops import Arithmetic


class Liger(Arithmetic):
    """By Liger; what it is not made for by torch."""

    def __init__(self) -> None:
        """Raises ImportError where it is not installed, or finds no Triton."""
        from liger_kernel.ops import fused_linear_cross_entropy, geglu, rms_norm, swiglu, utils

        self._norms: Any = rms_norm
        self._settings: Any = utils.calculate_settings
        self._head: Any = fused_linear_cross_entropy.fused_linear_cross_entropy_forward
        self._gates: dict[str, Any] = {"silu": swiglu.swiglu_forward, "gelu": geglu.geglu_forward}
        self._gates_backward: dict[str, Any] = {"silu": swiglu.swiglu_backward, "gelu": geglu.geglu_backward}

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # A sum that goes on in float32, as over a base in 4 bits, is rounded behind the norm; Gemma's not before it.
        if not _normed(x, weight) or (weight.dtype != x.dtype and dtype != x.dtype):
            return super().norm(x, weight, eps, dtype)
        answer, _, scales, *_ = self._norms.rms_norm_forward(x, weight, eps, 0.0, _casting(x, weight), None)
        return answer.to(dtype), scales.unsqueeze(-1)

    def norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        if not _normed(x, weight):
            return super().norm_backward(grad, x, weight, scales)
        # Not in place: others may read the gradient that this one was given.
        given = 0.0, _casting(x, weight), *self._settings(x.shape[-1]), False, None
        wide, roots = grad.to(x.dtype).contiguous(), scales.squeeze(-1)
        d_x: Tensor = self._norms.rms_norm_backward(wide, x, weight, roots, *given, needs_dw=False)[0]
        return d_x

    def gated(self, gate: Tensor, up: Tensor, act: str) -> Tensor:
        if not _whole(gate, up):
            return super().gated(gate, up, act)
        answer: Tensor = self._gates[act](gate, up)[2]
        return answer

    def gated_backward(self, grad: Tensor, gate: Tensor, up: Tensor, act: str) -> tuple[Tensor, Tensor]:
        """The gradients take the place of gate and up, which nobody needs behind this."""
        if not _whole(grad, gate, up):
            return super().gated_backward(grad, gate, up, act)
        d_gate, d_up = self._gates_backward[act](gate, up, grad)
        return d_gate, d_up

    def token_scores(
        self, hidden: Tensor, weight: Weight, labels: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        words = weight.make()
        if not _whole(hidden, words):
            return super().token_scores(hidden, weight, labels, learns)
        losses, _, right, _, pull, *_ = self._head(
            hidden, words, labels, reduction="none", return_token_accuracy=True,
            compute_gradients=learns, weight_requires_grad=False,
        )  # fmt: skip
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
