"""Liger's kernels in the fast path: asked for as they are documented; and, by Triton's interpreter, for what they do.

The kernels themselves run on GPUs (tests/gpu). On a CPU, where liger-kernel and triton are installed,
TRITON_INTERPRET=1 has them interpreted, in float32: the interpreter multiplies no bfloat16.
"""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_fast import agree, family  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from studio.engine.fast.ops.liger import Liger
    from studio.engine.fast.ops.torch_ops import Arithmetic

pytestmark = pytest.mark.engine
INTERPRETED = bool(find_spec("liger_kernel")) and os.environ.get("TRITON_INTERPRET") == "1"
WHY_NOT = "Liger's kernels need a GPU; with liger-kernel installed, TRITON_INTERPRET=1 has them interpreted"


def as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """liger_kernel.ops 0.8.5 by torch: the arguments and answers of the operators that are asked for."""
    import torch
    from torch.nn.functional import cross_entropy, gelu, silu

    from studio.engine.fast.ops.torch_ops import Arithmetic

    def rms_norm_forward(X: Any, W: Any, eps: float, offset: float, casting_mode: str, row_mode: Any) -> Any:
        assert casting_mode == ("llama" if X.dtype == W.dtype else "gemma") and row_mode is None
        answer, scales = Arithmetic().norm(X, W + offset, eps, X.dtype)
        return answer, X, scales.squeeze(-1), 64, 4, casting_mode

    def rms_norm_backward(
        dY: Any, X: Any, W: Any, RSTD: Any, offset: float, casting_mode: str, BLOCK_SIZE: int, num_warps: int,
        in_place: bool, row_mode: Any, needs_dw: bool | None = None,
    ) -> Any:  # fmt: skip
        assert RSTD.shape == X.shape[:1] and (BLOCK_SIZE, num_warps) == (64, 4) and not in_place and needs_dw is False
        return Arithmetic().norm_backward(dY, X, W + offset, RSTD[:, None]), None

    def gate(act: Callable[[Any], Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def backward(a: Any, b: Any, dc: Any) -> Any:
            with torch.enable_grad():
                given = a.clone().requires_grad_(), b.clone().requires_grad_()
                found = torch.autograd.grad(act(given[0]) * given[1], given, dc)
            return a.copy_(found[0]), b.copy_(found[1])  # in place, as Liger's

        return lambda a, b: (a, b, act(a) * b), backward

    def fused_linear_cross_entropy_forward(
        _input: Any, weight: Any, target: Any, *, reduction: str, return_token_accuracy: bool,
        compute_gradients: bool, weight_requires_grad: bool,
    ) -> Any:  # fmt: skip
        assert reduction == "none" and return_token_accuracy and not weight_requires_grad
        scores = (_input @ weight.t()).float()
        losses = cross_entropy(scores, target, reduction="none")
        pull = torch.softmax(scores, -1) - torch.nn.functional.one_hot(target, len(weight))
        gradient = (pull.to(weight.dtype) @ weight) if compute_gradients else torch.zeros_like(_input)
        return losses, None, (scores.argmax(-1) == target).float(), None, gradient, None, None

    swiglu, geglu = gate(silu), gate(lambda x: gelu(x, approximate="tanh"))
    operators: dict[str, dict[str, Any]] = {
        "rms_norm": {"rms_norm_forward": rms_norm_forward, "rms_norm_backward": rms_norm_backward},
        "swiglu": {"swiglu_forward": swiglu[0], "swiglu_backward": swiglu[1]},
        "geglu": {"geglu_forward": geglu[0], "geglu_backward": geglu[1]},
        "fused_linear_cross_entropy": {"fused_linear_cross_entropy_forward": fused_linear_cross_entropy_forward},
        "utils": {"calculate_settings": lambda columns: (64, 4)},
    }
    ops = ModuleType("liger_kernel.ops")
    for name, functions in operators.items():
        module = ModuleType(f"liger_kernel.ops.{name}")
        vars(module).update(functions)
        setattr(ops, name, module)
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", ops)


def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's compiler gives Liger's kernels and its interpreter does not (3.7): floats that are tensors, and
    functions of CUDA's library."""
    import numpy as np
    from liger_kernel.ops import geglu, rms_norm
    from triton import language
    from triton.runtime import interpreter

    usual = interpreter._implicit_cvt

    def converted(given: Any) -> Any:
        if not isinstance(given, float):
            return usual(given)
        return language.tensor(
            interpreter.TensorHandle(np.array([given], np.float32), language.float32), language.float32
        )

    monkeypatch.setattr(interpreter, "_implicit_cvt", converted)
    monkeypatch.setattr(rms_norm, "rsqrt", lambda x: 1 / language.sqrt(x))
    monkeypatch.setattr(geglu, "tanh", lambda x: 2 * language.sigmoid(2 * x) - 1)


@pytest.fixture(params=["as documented", "interpreted"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "Liger":
    from studio.engine.fast.ops import liger

    if request.param == "interpreted" and not INTERPRETED:
        pytest.skip(WHY_NOT)
    (interpreted if request.param == "interpreted" else as_documented)(monkeypatch)
    return liger.Liger()


@pytest.fixture
def torch_s() -> "Arithmetic":
    from studio.engine.fast.ops.torch_ops import Arithmetic

    return Arithmetic()


@pytest.mark.parametrize("norm", ["llama's", "gemma's", "over 4 bits"])
def test_norms_are_torch_s(by: "Liger", torch_s: "Arithmetic", norm: str, request: pytest.FixtureRequest) -> None:
    import torch

    torch.manual_seed(0)
    held = torch.float32 if "interpreted" in request.node.name or norm == "over 4 bits" else torch.bfloat16
    dtype = torch.bfloat16 if norm == "over 4 bits" else held
    x, grad = torch.randn(7, 64).to(held), torch.randn(7, 64).to(dtype)
    weight = torch.randn(64).to(held if norm == "llama's" else torch.float32)
    (answer, scales), (wanted, roots) = (one.norm(x, weight, 1e-5, dtype) for one in (by, torch_s))
    torch.testing.assert_close(answer, wanted)
    torch.testing.assert_close(scales, roots)
    torch.testing.assert_close(by.normed(x, weight, scales, dtype), answer)
    kept = grad.clone()
    torch.testing.assert_close(by.norm_backward(grad, x, weight, scales), torch_s.norm_backward(grad, x, weight, roots))
    assert torch.equal(grad, kept)


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_gates_are_torch_s(by: "Liger", torch_s: "Arithmetic", act: str) -> None:
    import torch

    torch.manual_seed(0)
    gate, up, grad = (torch.randn(5, 48) for _ in range(3))
    torch.testing.assert_close(by.gated(gate, up, act), torch_s.gated(gate, up, act))
    wanted = torch_s.gated_backward(grad, gate, up, act)
    for one, other in zip(by.gated_backward(grad, gate.clone(), up.clone(), act), wanted, strict=True):
        torch.testing.assert_close(one, other)
    # Halves of one tensor do not lie whole in memory, as the kernels take it: torch's.
    halves = torch.cat([gate, up], 1).chunk(2, -1)
    torch.testing.assert_close(by.gated(halves[0], halves[1], act), torch_s.gated(gate, up, act))


def test_the_loss_of_the_head_is_torch_s(by: "Liger", torch_s: "Arithmetic") -> None:
    import torch

    from studio.engine.fast.ops.prepacked import Weight

    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(9, 64), torch.randn(300, 64) / 8, torch.randint(300, (9,))
    labels[3] = (hidden @ weight.t())[3].argmax()
    words = Weight(lambda: weight)
    found, wanted = (one.token_scores(hidden, words, labels, True) for one in (by, torch_s))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert found[1][3]
    torch.testing.assert_close(by.token_scores(hidden, words, labels, False)[0], wanted[0])


@pytest.mark.parametrize("kind", ["llama", "gemma", "phi3"])
def test_loss_and_gradients_of_a_step_are_those_of_the_reference(
    by: "Liger",
    family: Callable[[str], Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    from studio.engine.fast import trainer

    monkeypatch.setattr(trainer, "kernels", lambda: (by, ""))
    agree(family(kind), tmp_path, "float32", 1e-5, 0.99999)


def test_without_liger_it_is_torch_s_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.engine.fast.ops import liger

    for name in ("liger_kernel", "liger_kernel.ops"):
        monkeypatch.setitem(sys.modules, name, None)
    by, why_not = liger.liger.__wrapped__()
    assert not isinstance(by, liger.Liger) and "not installed" in why_not
