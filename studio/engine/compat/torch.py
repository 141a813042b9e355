"""Unstable names of torch: oneDNN's matrix products, separate backward functions, profiler events.

No other part of the engine uses them. torch is imported inside the functions, so that RELIES_ON can be read without it.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from studio.engine.compat.contract import Name

if TYPE_CHECKING:
    from torch import Tensor

# --- matrix products by oneDNN


def has_onednn_products() -> bool:
    """Whether torch was built with oneDNN's products."""
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def can_lay_out() -> bool:
    """Whether torch can prepack a weight in oneDNN's layout."""
    import torch

    return has_onednn_products() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def laid_out(weight: "Tensor", tokens: int) -> "Tensor":
    """Prepack a weight in the layout that oneDNN chooses for `tokens` tokens."""
    import torch

    prepacked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, tokens)
    return prepacked


def onednn_product(x: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
    """Multiply x [n, in] with a weight [out, in], prepacked or not: [n, out]."""
    import torch

    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


def onednn_product_added(x: "Tensor", to: "Tensor", weight: "Tensor") -> "Tensor":
    """Add the product to a tensor before rounding."""
    import torch

    output: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, to, weight, None, "add")
    return output


# --- separate backward functions


def softmax_backward(grad: "Tensor", chances: "Tensor") -> "Tensor":
    """Gradient of scores whose softmax over the last axis is `chances`."""
    import torch

    d_scores: Tensor = torch._softmax_backward_data(grad, chances, -1, chances.dtype)
    return d_scores


def silu_backward(grad: "Tensor", x: "Tensor") -> "Tensor":
    """Gradient of x from the gradient of silu(x)."""
    import torch

    d_x: Tensor = torch.ops.aten.silu_backward(grad, x)
    return d_x


def gelu_backward(grad: "Tensor", x: "Tensor") -> "Tensor":
    """Gradient of x from the gradient of gelu(x), tanh form."""
    import torch

    d_x: Tensor = torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
    return d_x


# --- the rest


def by_tensor() -> "MutableMapping[Tensor, Any]":
    """Return a mapping keyed by tensor identity that keeps no tensor alive."""
    from torch.utils.weak import WeakIdKeyDictionary

    mapping: MutableMapping[Tensor, Any] = WeakIdKeyDictionary()
    return mapping


def has_kernel(operation: str, key: str) -> bool:
    """Whether a kernel is registered for exactly this device; torch.library.get_kernel also reports default ones."""
    import torch

    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operation, key))


def set_last_rates(scheduler: Any, rates: Sequence[float]) -> None:
    """Set the rates that a learning-rate scheduler reports as its last."""
    scheduler._last_lr = list(rates)


def highest_allocation(profiler: Any) -> int:
    """Return the highest running sum of allocations minus releases of a profiler with profile_memory, in bytes."""
    events = [event for event in _events(profiler) if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def _events(profiler: Any) -> Iterable[Any]:
    events: Iterable[Any] = profiler.profiler.kineto_results.events()
    return events


def _multiplies(_: Any) -> bool:
    import torch

    if not can_lay_out():
        return True  # this processor has no such layout, and torch's own products are used
    x, weight = torch.eye(16), torch.arange(256.0).view(16, 16)
    prepacked = laid_out(weight, 16)
    added = onednn_product_added(x, torch.ones(16, 16), prepacked) - 1
    outputs = onednn_product(x, weight), onednn_product(x, prepacked), added
    return all(torch.equal(output, weight.t()) for output in outputs)


def _bends_back(_: Any) -> bool:
    import torch

    x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
    grad = torch.ones(3, 4).cumsum(-1)
    functional = torch.nn.functional
    for output, gradient in (
        (functional.silu(x), silu_backward(grad, x.detach())),
        (functional.gelu(x, approximate="tanh"), gelu_backward(grad, x.detach())),
        (x.softmax(-1), softmax_backward(grad, x.detach().softmax(-1))),
    ):
        (expected,) = torch.autograd.grad(output, x, grad)
        if not torch.allclose(expected, gradient, atol=1e-6):
            return False
    return True


def _counts(_: Any) -> bool:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        tensor = torch.zeros(2**20)
    del tensor
    return highest_allocation(profiler) >= 4 * 2**20


def _tells_rates(kind: Any) -> bool:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = kind(optimizer, lambda _: 1.0)
    set_last_rates(scheduler, [0.5])
    reported = scheduler.get_last_lr() == [0.5] and scheduler.state_dict()["_last_lr"] == [0.5]
    return reported and scheduler.base_lrs == [1.0] and len(scheduler.lr_lambdas) == 1


RELIES_ON: tuple[Name, ...] = (
    Name(
        "torch.ops.mkldnn",
        "matrix products would use torch's own code, a tenth slower in float32, or be wrong",
        holds=_multiplies,
    ),
    Name(
        "torch._softmax_backward_data",
        "training without a C++ compiler could not compute the gradient of attention",
        holds=_bends_back,
    ),
    Name("torch.ops.aten.silu_backward", "training without a C++ compiler could not compute the gradient of gates"),
    Name("torch.ops.aten.gelu_backward", "training without a C++ compiler could not compute the gradient of gates"),
    Name("torch.utils.weak.WeakIdKeyDictionary", "the fast path could not recompute tensors in the backward pass"),
    Name(
        "torch._C._dispatch_has_kernel_for_dispatch_key",
        "our 4-bit kernel might replace one of bitsandbytes' own",
        holds=lambda has: has("aten::silu_backward", "CPU") and not has("aten::linear", "CPU"),
    ),
    Name(
        "torch.optim.lr_scheduler.LambdaLR",
        "a resumed run with a new length would log and save a wrong learning rate",
        holds=_tells_rates,
    ),
    Name(
        "torch.profiler.profile",
        "a run on a CPU could not measure its peak memory",
        holds=_counts,
    ),
)
