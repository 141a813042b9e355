"""Matrix products by whoever is quickest at them on this processor.

float32 on AMD's is oneDNN's, a tenth quicker there than MKL, which torch asks for it; all else is what torch takes.
What it does not do: products of many small matrices (attention.py).
"""

import functools

import torch
from torch import Tensor

from studio.engine.compat.torch import has_onednn_products, onednn_product
from studio.machine import cpu

THIN = 32  # numbers summed up for each of an answer


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a [n, k] times b [k, m], [n, m], and a bias [m]; either may lie transposed in memory."""
    bias = None if bias is None else bias.to(a.dtype)
    if not _onednn(a):
        return a @ b if bias is None else torch.addmm(bias, a, b)
    return onednn_product(a, b.t(), bias)


def add_product_(to: Tensor, a: Tensor, b: Tensor, times: float = 1.0) -> Tensor:
    """Add `times` a [n, k] times b [k, m] to a tensor [n, m]."""
    # oneDNN's product is a tensor of its own first: for a small k that pass costs more than the product gains.
    if _onednn(a) and a.shape[1] > THIN:
        return to.add_(product(a, b), alpha=times)
    return to.addmm_(a, b, alpha=times)


def _onednn(a: Tensor) -> bool:
    return a.dtype == torch.float32 and not a.is_cuda and _better_than_mkl()


@functools.cache
def _better_than_mkl() -> bool:
    return has_onednn_products() and cpu.made_by_amd()
