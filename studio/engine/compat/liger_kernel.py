"""Unstable names of Liger: the functions below its modules, called as documented for 0.8.

No other part of the engine uses them.
"""

from typing import TYPE_CHECKING, Any

from studio.engine.compat.contract import Name

if TYPE_CHECKING:
    from torch import Tensor


class Operations:
    """Liger's forward and backward functions."""

    def __init__(self) -> None:
        """Raises ImportError if Liger is not installed or finds no Triton."""
        from liger_kernel.ops import fused_linear_cross_entropy, geglu, rms_norm, swiglu, utils

        self._norms: Any = rms_norm
        self._settings: Any = utils.calculate_settings
        self._head: Any = fused_linear_cross_entropy.fused_linear_cross_entropy_forward
        self._gates: dict[str, Any] = {"silu": swiglu.swiglu_forward, "gelu": geglu.geglu_forward}
        self._gates_backward: dict[str, Any] = {"silu": swiglu.swiglu_backward, "gelu": geglu.geglu_backward}

    def norm(self, x: "Tensor", weight: "Tensor", eps: float, casting: str) -> "tuple[Tensor, Tensor]":
        """Return the norm of x [n, width] in its type, and the reciprocal roots [n]."""
        answer, _, scales, *_ = self._norms.rms_norm_forward(x, weight, eps, 0.0, casting, None)
        return answer, scales

    def norm_backward(self, grad: "Tensor", x: "Tensor", weight: "Tensor", scales: "Tensor", casting: str) -> "Tensor":
        """Gradient of x."""
        # Not in place: other functions may read the incoming gradient.
        options = 0.0, casting, *self._settings(x.shape[-1]), False, None
        d_x: Tensor = self._norms.rms_norm_backward(grad, x, weight, scales, *options, needs_dw=False)[0]
        return d_x

    def gated(self, gate: "Tensor", up: "Tensor", act: str) -> "Tensor":
        """act(gate) * up; act: silu or gelu."""
        answer: Tensor = self._gates[act](gate, up)[2]
        return answer

    def gated_backward(self, grad: "Tensor", gate: "Tensor", up: "Tensor", act: str) -> "tuple[Tensor, Tensor]":
        """Gradients of gate and up, written in place."""
        d_gate, d_up = self._gates_backward[act](gate, up, grad)
        return d_gate, d_up

    def token_losses(
        self, hidden: "Tensor", words: "Tensor", labels: "Tensor", learns: bool
    ) -> "tuple[Tensor, Tensor, Tensor]":
        """Return -log p(label), whether the label is the most likely (1 or 0) and, if `learns`, hidden's gradient."""
        losses, _, right, _, pull, *_ = self._head(
            hidden, words, labels, reduction="none", return_token_accuracy=True,
            compute_gradients=learns, weight_requires_grad=False,
        )  # fmt: skip
        return losses, right, pull


_LOST = "norms, gates and the loss on a GPU would fail or be wrong"
RELIES_ON: tuple[Name, ...] = (
    Name("liger_kernel.ops.rms_norm.rms_norm_forward", _LOST, ("X", "W", "eps", "offset", "casting_mode", "row_mode")),
    Name(
        "liger_kernel.ops.rms_norm.rms_norm_backward",
        _LOST,
        (
            "dY",
            "X",
            "W",
            "RSTD",
            "offset",
            "casting_mode",
            "BLOCK_SIZE",
            "num_warps",
            "in_place",
            "row_mode",
            "needs_dw",
        ),
    ),
    Name("liger_kernel.ops.swiglu.swiglu_forward", _LOST, ("a", "b")),
    Name("liger_kernel.ops.swiglu.swiglu_backward", _LOST, ("a", "b", "dc")),
    Name("liger_kernel.ops.geglu.geglu_forward", _LOST, ("a", "b")),
    Name("liger_kernel.ops.geglu.geglu_backward", _LOST, ("a", "b", "dc")),
    Name("liger_kernel.ops.utils.calculate_settings", _LOST),
    Name(
        "liger_kernel.ops.fused_linear_cross_entropy.fused_linear_cross_entropy_forward",
        _LOST,
        ("reduction", "return_token_accuracy", "compute_gradients", "weight_requires_grad"),
    ),
)
