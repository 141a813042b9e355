"""Weights into 4 bits by our kernel, to the bit what bitsandbytes makes of them, which on a CPU has torch look up every
number by itself: most of the time that loading a model in 4 bits takes.

What it does not do: GPUs, whose own kernels bitsandbytes has; 8 bits.
"""

import functools

import torch
from torch import Tensor

from studio.engine.fast.kernels import Kernels, kernels

_OPERATION = "bitsandbytes::quantize_4bit"


@functools.cache
def quantize_by_kernel() -> bool:
    """From now on, in this process, where it could be compiled and bitsandbytes brings nothing of its own for CPUs;
    whether it is so."""
    import bitsandbytes  # noqa: F401  # defines the operation

    by = kernels()[0]
    if not isinstance(by, Kernels) or torch._C._dispatch_has_kernel_for_dispatch_key(_OPERATION, "CPU"):
        return False
    torch.library.register_kernel(_OPERATION, "cpu", functools.partial(_quantized, by))
    return True


def _quantized(
    by: Kernels, x: Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[Tensor, Tensor]:
    bounds, names = _bounds(quant_type)
    packed, largest = by.quantize_4bit(x, bounds, names, blocksize)
    return packed.view(quant_storage).unsqueeze(1), largest


def _bounds(quant_type: str) -> tuple[Tensor, Tensor]:
    """Half way between each two neighbours of the 16 values, and the number that each value goes by."""
    from bitsandbytes.functional import get_4bit_type

    values, names = get_4bit_type(quant_type, device="cpu").sort()
    return ((values[:-1] + values[1:]) / 2).contiguous(), names.to(torch.uint8)
