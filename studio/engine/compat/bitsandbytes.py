"""Unstable names of bitsandbytes: layer states, paged optimizers and the 4-bit operation.

No other part of the engine uses them.
"""

import copy
from collections.abc import Callable
from typing import Any

from studio.engine.compat.contract import Name
from studio.engine.compat.torch import has_kernel

_OPERATION = "bitsandbytes::quantize_4bit"


def is_in_4_bits(weight: Any) -> bool:
    """Whether a weight is in 4 bits, with a quantisation state."""
    return hasattr(weight, "quant_state")


def unpacked(weight: Any, dtype: Any = None) -> Any:
    """Dequantise a 4-bit weight to `dtype`; None for the type it was quantised from."""
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(weight.quant_state)
    state.dtype = dtype or state.dtype
    return dequantize_4bit(weight.data, state)


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes' layers trainable (both problems seen with 0.50).

    4 bits: on a CPU with AVX512-BF16 the first forward pass in eval mode repacks the weights in place for inference;
    later backward passes through those layers lose the gradient without an error.
    8 bits: on a CPU, whenever PEFT 0.21 reads a weight for DoRA it replaces it with a copy without scales, and the
    layer uses the copy's state. Here the layer reads the scales once and keeps them.
    """
    for module in model.modules():
        # Older versions do not repack.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "init_8bit_state") and module.weight.device.type == "cpu":
            module.init_8bit_state()
            module.init_8bit_state = _do_nothing


def page_out(optimizer: Any) -> None:
    """Move the loaded moments of a paged optimizer from plain GPU tensors back to paged memory."""
    plain = getattr(optimizer, "optimizer", optimizer)
    if not getattr(plain, "is_paged", False):
        return
    for parameter, state in plain.state.items():
        for name in ("state1", "state2"):
            if name in state:
                paged = plain.get_state_buffer(parameter, dtype=state[name].dtype)
                state[name] = paged.copy_(state[name])


def quantizes_on_a_cpu() -> bool:
    """Whether bitsandbytes has its own 4-bit CPU kernel, besides the one for any device."""
    import bitsandbytes  # noqa: F401  # defines the operation

    return has_kernel(_OPERATION, "CPU")


def quantize_on_a_cpu_by(kernel: Callable[..., Any]) -> None:
    """Use kernel(x, blocksize, quant_type, quant_storage) to quantise weights to 4 bits in this process."""
    import torch

    torch.library.register_kernel(_OPERATION, "cpu", kernel)


def values_of_4_bits(quant_type: str) -> Any:
    """Return the 16 values of nf4 or fp4 in code order, as a tensor."""
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type(quant_type, device="cpu")


def _do_nothing() -> None:
    pass


def _schema_as_called(_: Any) -> bool:
    import torch

    schema = torch.ops.bitsandbytes.quantize_4bit.default._schema
    return [argument.name for argument in schema.arguments] == ["A", "blocksize", "quant_type", "quant_storage"]


def _unpacks(_: Any) -> bool:
    """Whether a small weight can be quantised to 4 bits and dequantised to the requested type."""
    import torch
    from bitsandbytes.nn import Params4bit

    weight = Params4bit(torch.ones(64, 64), requires_grad=False, quant_type="nf4").to("cpu")
    restored = unpacked(weight, torch.bfloat16)
    return is_in_4_bits(weight) and restored.dtype == torch.bfloat16 and bool((restored == 1).all())


def _repacks_by_flag(kind: Any) -> bool:
    return "support_avx512bf16_for_cpu" in kind.forward.__code__.co_names and hasattr(
        kind(4, 4), "support_avx512bf16_for_cpu"
    )


def _asks_itself_for_scales(kind: Any) -> bool:
    return "init_8bit_state" in kind.forward.__code__.co_names


RELIES_ON: tuple[Name, ...] = (
    Name(
        "bitsandbytes.nn.Linear4bit",
        "an evaluation on a CPU would repack the weights, and training would lose gradients without an error",
        holds=_repacks_by_flag,
    ),
    Name(
        "bitsandbytes.nn.Linear8bitLt",
        "DoRA on an 8-bit base would lose the scales on a CPU",
        holds=_asks_itself_for_scales,
    ),
    Name("bitsandbytes.nn.Params4bit", "the fast path could not use 4-bit weights", holds=_unpacks),
    Name(
        "bitsandbytes.optim.optimizer.Optimizer8bit.get_state_buffer",
        "a resumed run with a paged optimizer would keep its moments in GPU memory",
        takes=("p", "dtype"),
    ),
    Name(
        "bitsandbytes.optim.optimizer.Optimizer8bit",
        "a resumed run with a paged optimizer would keep its moments in GPU memory",
        takes=("is_paged",),
    ),
    Name(
        "bitsandbytes.functional.get_4bit_type",
        "torch would quantise weights to 4 bits, which takes minutes for a large model on a CPU",
        takes=("typename", "device"),
        holds=lambda _: len(values_of_4_bits("nf4")) == 16,
    ),
    Name(
        "bitsandbytes.functional.dequantize_4bit",
        "LoftQ could not compute the rounding error of weights",
        takes=("A", "quant_state"),
    ),
    Name(
        "bitsandbytes._ops",
        "our 4-bit kernel would be called with other arguments",
        holds=_schema_as_called,
    ),
)
