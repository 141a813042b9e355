"""Quantise weights to 4 bits with our kernel, bit for bit like bitsandbytes.

On a CPU, bitsandbytes has torch look up every number separately, which is most of the time of loading a model in 4
bits. GPUs, for which bitsandbytes has kernels, and 8 bits are not handled here.
"""

import functools

import torch
from torch import Tensor

from studio.engine.compat.bitsandbytes import quantize_on_a_cpu_by, quantizes_on_a_cpu, values_of_4_bits
from studio.engine.fast.kernels import Kernels, kernels


@functools.cache
def quantize_by_kernel() -> bool:
    """Use our kernel in this process if it could be compiled and bitsandbytes has none for CPUs.

    Returns whether it is used.
    """
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
    """Return the midpoints between neighbours of the 16 sorted values, and the code of each value."""
    values, names = values_of_4_bits(quant_type).sort()
    return ((values[:-1] + values[1:]) / 2).contiguous(), names.to(torch.uint8)
