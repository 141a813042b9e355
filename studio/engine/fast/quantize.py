"""Weights into 4 bits by our kernel, to the bit what bitsandbytes makes of them, which on a CPU has torch look up every
number by itself: most of the time that loading a model in 4 bits takes.

What it does not do: GPUs, whose own kernels bitsandbytes has; 8 bits.
"""

import functools

import torch
from torch import Tensor

from studio.engine.compat.bitsandbytes import quantize_on_a_cpu_by, quantizes_on_a_cpu, values_of_4_bits
from studio.engine.fast.kernels import Kernels, kernels


@functools.cache
def quantize_by_kernel() -> bool:
    """From now on, in this process, where it could be compiled and bitsandbytes brings nothing of its own for CPUs;
    whether it is so."""
    by = kernels()[0]
    if not isinstance(by, Kernels) or quantizes_on_a_cpu():
        return False
    quantize_on_a_cpu_by(functools.partial(_quantized, by))
    return True


def _quantized(
    by: Kernels, x: Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[Tensor, Tensor]:
    bounds, names = _bounds(quant_type)
    packed, largest = by.quantize_4bit(x, bounds, names, blocksize)
    return packed.view(quant_storage).unsqueeze(1), largest


def _bounds(quant_type: str) -> tuple[Tensor, Tensor]:
    """Half way between each two neighbours of the 16 values, and the number that each value goes by."""
    values, names = values_of_4_bits(quant_type).sort()
    return ((values[:-1] + values[1:]) / 2).contiguous(), names.to(torch.uint8)
