"""The names of torch that it does not promise to keep: oneDNN's products, lone gradients, its profiler's events.

Nothing else in the engine touches them. torch itself is imported when it is asked for: RELIES_ON is read without it.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from studio.engine.compat.contract import Name

if TYPE_CHECKING:
    from torch import Tensor

# --- products as oneDNN computes them


def has_onednn_products() -> bool:
    """Whether torch was built with them."""
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def can_lay_out() -> bool:
    """Whether torch can hold a weight in the order in which oneDNN reads it."""
    import torch

    return has_onednn_products() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def laid_out(weight: "Tensor", tokens: int) -> "Tensor":
    """A weight in the order that oneDNN chooses for so many tokens."""
    import torch

    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, tokens)
    return made


def onednn_product(x: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
    """x [n, in] through a weight [out, in], laid out or not: [n, out]."""
    import torch

    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def onednn_product_added(x: "Tensor", to: "Tensor", weight: "Tensor") -> "Tensor":
    """The same added to a tensor before it is rounded."""
    import torch

    made: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, to, weight, None, "add")
    return made


# --- backward passes by themselves


def softmax_backward(grad: "Tensor", chances: "Tensor") -> "Tensor":
    """The gradient of scores whose softmax over the last axis is `chances`."""
    import torch

    made: Tensor = torch._softmax_backward_data(grad, chances, -1, chances.dtype)
    return made


def silu_backward(grad: "Tensor", x: "Tensor") -> "Tensor":
    """The gradient of x behind silu."""
    import torch

    made: Tensor = torch.ops.aten.silu_backward(grad, x)
    return made


def gelu_backward(grad: "Tensor", x: "Tensor") -> "Tensor":
    """The gradient of x behind gelu, its tanh form."""
    import torch

    made: Tensor = torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
    return made


# --- the rest


def by_tensor() -> "MutableMapping[Tensor, Any]":
    """A mapping from tensors, each told by itself and not by its numbers, that keeps none of them alive."""
    from torch.utils.weak import WeakIdKeyDictionary

    made: MutableMapping[Tensor, Any] = WeakIdKeyDictionary()
    return made


def has_kernel(operation: str, key: str) -> bool:
    """Whether a kernel was registered for exactly this device: torch.library.get_kernel also tells of default ones."""
    import torch

    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operation, key))


def set_last_rates(scheduler: Any, rates: Sequence[float]) -> None:
    """Let a learning rate's scheduler say that these were the last."""
    scheduler._last_lr = list(rates)


def highest_allocation(profiler: Any) -> int:
    """The highest sum of allocations less releases that a profiler with profile_memory saw, in bytes."""
    events = [event for event in _events(profiler) if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def _events(profiler: Any) -> Iterable[Any]:
    found: Iterable[Any] = profiler.profiler.kineto_results.events()
    return found


def _multiplies(_: Any) -> bool:
    import torch

    if not can_lay_out():
        return True  # a processor without: products are then torch's own
    x, weight = torch.eye(16), torch.arange(256.0).view(16, 16)
    held = laid_out(weight, 16)
    plain = onednn_product(x, weight), onednn_product(x, held), onednn_product_added(x, torch.ones(16, 16), held) - 1
    return all(torch.equal(one, weight.t()) for one in plain)


def _bends_back(_: Any) -> bool:
    import torch

    x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
    grad = torch.ones(3, 4).cumsum(-1)
    functional = torch.nn.functional
    for made, back in (
        (functional.silu(x), silu_backward(grad, x.detach())),
        (functional.gelu(x, approximate="tanh"), gelu_backward(grad, x.detach())),
        (x.softmax(-1), softmax_backward(grad, x.detach().softmax(-1))),
    ):
        (wanted,) = torch.autograd.grad(made, x, grad)
        if not torch.allclose(wanted, back, atol=1e-6):
            return False
    return True


def _counts(_: Any) -> bool:
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        held = torch.zeros(2**20)
    del held
    return highest_allocation(profiler) >= 4 * 2**20


def _tells_rates(kind: Any) -> bool:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = kind(optimizer, lambda _: 1.0)
    set_last_rates(scheduler, [0.5])
    told = scheduler.get_last_lr() == [0.5] and scheduler.state_dict()["_last_lr"] == [0.5]
    return told and scheduler.base_lrs == [1.0] and len(scheduler.lr_lambdas) == 1


RELIES_ON: tuple[Name, ...] = (
    Name(
        "torch.ops.mkldnn",
        "products would be torch's, a tenth slower in float32, or wrong",
        holds=_multiplies,
    ),
    Name(
        "torch._softmax_backward_data",
        "attention without a compiler could not be trained",
        holds=_bends_back,
    ),
    Name("torch.ops.aten.silu_backward", "gates without a compiler could not be trained"),
    Name("torch.ops.aten.gelu_backward", "gates without a compiler could not be trained"),
    Name("torch.utils.weak.WeakIdKeyDictionary", "the fast path could not remember what a tensor is made of"),
    Name(
        "torch._C._dispatch_has_kernel_for_dispatch_key",
        "our kernel for 4 bits might take the place of one that bitsandbytes brings",
        holds=lambda has: has("aten::silu_backward", "CPU") and not has("aten::linear", "CPU"),
    ),
    Name(
        "torch.optim.lr_scheduler.LambdaLR",
        "a resumed run would log, and keep in its checkpoints, the learning rate of another length",
        holds=_tells_rates,
    ),
    Name(
        "torch.profiler.profile",
        "a run on a CPU could not count its peak of memory",
        holds=_counts,
    ),
)
