"""Matrix products with the fastest library for this processor.

float32 on AMD uses oneDNN, which is a tenth faster there than MKL, torch's choice; everything else uses torch's choice.
attention.py has the products of many small matrices.
"""

import functools

import torch
from torch import Tensor

from studio.engine.compat.torch import has_onednn_products, onednn_product
from studio.machine import cpu

THIN = 32  # largest inner dimension of a thin product


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a [n, k] times b [k, m] plus a bias [m]; a and b may be transposed views."""
    bias = None if bias is None else bias.to(a.dtype)
    if not _onednn(a):
        return a @ b if bias is None else torch.addmm(bias, a, b)
    return onednn_product(a, b.t(), bias)


def add_product_(to: Tensor, a: Tensor, b: Tensor, times: float = 1.0) -> Tensor:
    """Add `times` * a [n, k] @ b [k, m] to `to` [n, m] in place."""
    # oneDNN writes its product to a separate tensor: for a small k that pass costs more than the product saves.
    if _onednn(a) and a.shape[1] > THIN:
        return to.add_(product(a, b), alpha=times)
    return to.addmm_(a, b, alpha=times)


def _onednn(a: Tensor) -> bool:
    return a.dtype == torch.float32 and not a.is_cuda and _better_than_mkl()


@functools.cache
def _better_than_mkl() -> bool:
    return has_onednn_products() and cpu.made_by_amd()
