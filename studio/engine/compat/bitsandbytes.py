"""The names of bitsandbytes that it does not promise to keep: its layers' states, its pages, its operation for 4 bits.

Nothing else in the engine touches them.
"""

import copy
from collections.abc import Callable
from typing import Any

from studio.engine.compat.contract import Name
from studio.engine.compat.torch import has_kernel

_OPERATION = "bitsandbytes::quantize_4bit"


def is_in_4_bits(weight: Any) -> bool:
    """Whether a weight is held in 4 bits, and says so."""
    return hasattr(weight, "quant_state")


def unpacked(weight: Any, dtype: Any = None) -> Any:
    """A weight in 4 bits as numbers of this type; None: of the one that it was made of."""
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(weight.quant_state)
    state.dtype = dtype or state.dtype
    return dequantize_4bit(weight.data, state)


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes' layers as training needs them (both seen with 0.50).

    4 bits: on a CPU with AVX512-BF16 the first forward pass in eval mode repacks the weights for inference, in place,
    and from then on backward passes through those layers lose the gradient without an error.
    8 bits: on a CPU, each look PEFT takes at a weight for DoRA (0.21) puts a copy without its scales in its place, and
    the layer takes over what the copy has. Here it takes the scales once and keeps them.
    """
    for module in model.modules():
        # Older versions have no repacking.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "init_8bit_state") and module.weight.device.type == "cpu":
            module.init_8bit_state()
            module.init_8bit_state = _do_nothing


def page_out(optimizer: Any) -> None:
    """Put the loaded moments of a paged optimizer, plain tensors on the GPU, into pages again."""
    plain = getattr(optimizer, "optimizer", optimizer)
    if not getattr(plain, "is_paged", False):
        return
    for parameter, state in plain.state.items():
        for name in ("state1", "state2"):
            if name in state:
                paged = plain.get_state_buffer(parameter, dtype=state[name].dtype)
                state[name] = paged.copy_(state[name])


def quantizes_on_a_cpu() -> bool:
    """Whether bitsandbytes brings a kernel of its own for 4 bits on a CPU, beside the one for any device."""
    import bitsandbytes  # noqa: F401  # defines the operation

    return has_kernel(_OPERATION, "CPU")


def quantize_on_a_cpu_by(kernel: Callable[..., Any]) -> None:
    """From now on, in this process, let kernel(x, blocksize, quant_type, quant_storage) bring weights into 4 bits."""
    import torch

    torch.library.register_kernel(_OPERATION, "cpu", kernel)


def values_of_4_bits(quant_type: str) -> Any:
    """The 16 values of nf4 or fp4 in the order of their numbers, a tensor."""
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type(quant_type, device="cpu")


def _do_nothing() -> None:
    pass


def _schema_as_called(_: Any) -> bool:
    import torch

    schema = torch.ops.bitsandbytes.quantize_4bit.default._schema
    return [one.name for one in schema.arguments] == ["A", "blocksize", "quant_type", "quant_storage"]


def _unpacks(_: Any) -> bool:
    """Whether a small weight goes into 4 bits and comes back in the type asked for."""
    import torch
    from bitsandbytes.nn import Params4bit

    weight = Params4bit(torch.ones(64, 64), requires_grad=False, quant_type="nf4").to("cpu")
    found = unpacked(weight, torch.bfloat16)
    return is_in_4_bits(weight) and found.dtype == torch.bfloat16 and bool((found == 1).all())


def _repacks_by_flag(kind: Any) -> bool:
    return "support_avx512bf16_for_cpu" in kind.forward.__code__.co_names and hasattr(
        kind(4, 4), "support_avx512bf16_for_cpu"
    )


def _asks_itself_for_scales(kind: Any) -> bool:
    return "init_8bit_state" in kind.forward.__code__.co_names


RELIES_ON: tuple[Name, ...] = (
    Name(
        "bitsandbytes.nn.Linear4bit",
        "an evaluation on a CPU would repack the weights, and training lose their gradients without an error",
        holds=_repacks_by_flag,
    ),
    Name(
        "bitsandbytes.nn.Linear8bitLt",
        "DoRA over a base in 8 bits would lose the scales on a CPU",
        holds=_asks_itself_for_scales,
    ),
    Name(
        "bitsandbytes.nn.Params4bit", "weights in 4 bits could not be multiplied with on the fast path", holds=_unpacks
    ),
    Name(
        "bitsandbytes.optim.optimizer.Optimizer8bit.get_state_buffer",
        "a run with a paged optimizer would go on with its moments in the GPU's own memory",
        takes=("p", "dtype"),
    ),
    Name(
        "bitsandbytes.optim.optimizer.Optimizer8bit",
        "a run with a paged optimizer would go on with its moments in the GPU's own memory",
        takes=("is_paged",),
    ),
    Name(
        "bitsandbytes.functional.get_4bit_type",
        "weights would be brought into 4 bits by torch, which takes minutes for a large model on a CPU",
        takes=("typename", "device"),
        holds=lambda _: len(values_of_4_bits("nf4")) == 16,
    ),
    Name(
        "bitsandbytes.functional.dequantize_4bit",
        "LoftQ could not compare weights with what they were rounded to",
        takes=("A", "quant_state"),
    ),
    Name(
        "bitsandbytes._ops",
        "our kernel for 4 bits would be called with other arguments",
        holds=_schema_as_called,
    ),
)
