"""Compiled operations and attention: kernels.cpp and attention.cpp, if they could be compiled (machine/compiling.py).

Other products, GPUs, and types other than float32 and bfloat16 stay torch's.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast.layout import Rows
from studio.engine.fast.ops.torch_ops import Arithmetic
from studio.machine import compiling
from studio.recipe.fast_path import STEP, attention_parts

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_C = {"p": ctypes.c_void_p, "l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}
# Argument types of each function: pointers, longs, ints and floats, with the number of threads last.
_TAKES = {
    "norm": "ppifpiplli",
    "norm_backward": "ppppplli",
    "gate": "ppplllii",
    "gate_backward": "ppppplllii",
    "rotate": "pllppplllllfi",
    "softmax": "pllllfi",
    "score": "pppplli",
    "quantize_4bit": "ppppplli",
    "attention": "pfpppppppppi",
    "attention_backward": "pfpppppppppppppi",
}


class Kernels(Arithmetic):
    """The operations with the compiled library, and with torch where it does not apply."""

    def __init__(self, library: Path) -> None:
        """Raises OSError if the library cannot be loaded."""
        self._library = ctypes.CDLL(str(library))

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if not _fit(x, weight) or dtype not in _NAMES:
            return super().norm(x, weight, eps, dtype)
        scales = x.new_empty(x.shape[0], 1, dtype=torch.float32)
        return self._norm(x, weight, eps, scales, False, dtype), scales

    def normed(self, x: Tensor, weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        if not _fit(x, weight, scales) or dtype not in _NAMES:
            return super().normed(x, weight, scales, dtype)
        return self._norm(x, weight, 0.0, scales, True, dtype)

    def _norm(self, x: Tensor, weight: Tensor, eps: float, scales: Tensor, known: bool, dtype: torch.dtype) -> Tensor:
        answer, wide = torch.empty_like(x, dtype=dtype), weight.float()
        rounds = weight.dtype == torch.bfloat16
        self._call("norm", (x, answer))(_at(x), _at(wide), rounds, eps, _at(scales), known, _at(answer), *x.shape)
        return answer

    def norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        if not _fit(x, weight, scales, grad):
            return super().norm_backward(grad, x, weight, scales)
        d_x, wide = torch.empty_like(x), weight.float()
        self._call("norm_backward", (x, grad))(_at(grad), _at(x), _at(wide), _at(scales), _at(d_x), *x.shape)
        return d_x

    def gated(self, gate: Tensor, up: Tensor, act: str) -> Tensor:
        if not _gates(gate, up):
            return super().gated(gate, up, act)
        answer = up.new_empty(up.shape)
        self._call("gate", (up,))(_at(gate), _at(up), _at(answer), *up.shape, up.stride(0), act == "gelu")
        return answer

    def gated_backward(self, grad: Tensor, gate: Tensor, up: Tensor, act: str) -> tuple[Tensor, Tensor]:
        if not (_gates(gate, up) and _fit(grad) and grad.dtype == up.dtype):
            return super().gated_backward(grad, gate, up, act)
        d_gate, d_up = gate.new_empty(gate.shape), up.new_empty(up.shape)
        call = self._call("gate_backward", (up,))
        call(_at(grad), _at(gate), _at(up), _at(d_gate), _at(d_up), *up.shape, up.stride(0), act == "gelu")
        return d_gate, d_up

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, answer: Tensor, sign: int) -> None:
        same_type = len({tensor.dtype for tensor in (x, cos, sin, answer)}) == 1
        if not (_known(x) and _fit(cos, sin) and same_type and x.stride(2) == answer.stride(2) == 1):
            return super().rotate(x, cos, sin, answer, sign)
        strides = x.stride()[:2], answer.stride()[:2]
        call = self._call("rotate", (x,))
        call(_at(x), *strides[0], _at(cos), _at(sin), _at(answer), *strides[1], *x.shape, sign)
        return None

    def softmax(self, scores: Tensor, queries: int, window: int | None, rows: Rows, scale: float) -> Tensor:
        if not _fit(scores):
            return super().softmax(scores, queries, window, rows, scale)
        groups, stacked, keys = scores.shape
        self._call("softmax", (scores,))(_at(scores), groups * stacked, queries, keys, window or 0, scale)
        return scores

    def score(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not _fit(scores) or labels.dtype != torch.int64 or not labels.is_contiguous():
            return super().score(scores, labels)
        chances = scores.new_empty(len(labels), dtype=torch.float32)
        best = scores.new_empty(len(labels), dtype=torch.bool)
        self._call("score", (scores,))(_at(scores), _at(labels), _at(chances), _at(best), *scores.shape)
        return chances, best

    def quantize_4bit(self, x: Tensor, bounds: Tensor, names: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Quantise x to 4 bits in blocks of `size` numbers.

        Returns uint8 [half as many] and each block's largest magnitude, float32. bounds: 15 ascending float32; names:
        uint8 codes of the 16 intervals between them.
        """
        x = (x if x.dtype in _NAMES else x.float()).contiguous()
        packed = x.new_empty((x.numel() + 1) // 2, dtype=torch.uint8)
        largest = x.new_empty(-(-x.numel() // size), dtype=torch.float32)
        call = self._call("quantize_4bit", (x,))
        call(_at(x), _at(bounds), _at(names), _at(largest), _at(packed), x.numel(), size)
        return packed, largest

    def attends(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether `attention` supports these tensors; otherwise engine/fast/ops/attention.py uses matrix products."""
        tensors = (query, key, value)
        same_type = len({tensor.dtype for tensor in tensors}) == 1
        even = all(t.stride(2) == 1 and t.stride(0) % 2 == t.stride(1) % 2 == 0 for t in tensors)
        return _known(query) and same_type and even and self.attends_in(query.dtype, query.shape[2])

    def attends_in(self, dtype: torch.dtype, head_dim: int) -> bool:
        """Whether attention is compiled for this dtype and head size."""
        return head_dim % STEP == 0 and hasattr(self._library, f"attention_{_NAMES[dtype]}")

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of query [heads, tokens, d] to key and value [kv heads, tokens, d].

        Returns the output [tokens, heads, d] and the log-sum-exp of the scores, float32 [tokens, heads].
        """
        heads, tokens, width = query.shape
        answer, sums = query.new_empty(tokens, heads, width), query.new_empty(tokens, heads, dtype=torch.float32)
        sizes, space = self._attention(query, key, value, rows, window)
        tensors = (*rows.table(), query, key, value, answer, sums, space)
        self._call("attention", (query,))(sizes, scaling, *map(_at, tensors))
        return answer, sums

    def attention_backward(
        self, grad: Tensor, asked: tuple[Tensor, ...], rows: Rows, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value; asked: those three and the sums; grad: of the output, contiguous."""
        query, key, value, _ = asked
        gradients = [t.new_empty(t.shape[1], t.shape[0], t.shape[2]) for t in (query, key, value)]
        sizes, space = self._attention(query, key, value, rows, window)
        parts = 2 * sizes[1] * sizes[6]
        partial = query.new_empty(parts * sum(rows.lengths) * query.shape[2], dtype=torch.float32)
        tensors = (*rows.table(), grad, *asked, *gradients, partial, space)
        self._call("attention_backward", (query,))(sizes, scaling, *map(_at, tensors))
        d_query, d_key, d_value = (gradient.transpose(0, 1) for gradient in gradients)
        return d_query, d_key, d_value

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None
    ) -> tuple[Any, Tensor]:
        """The sizes that attention.cpp needs, and the work memory of its threads."""
        heads, kv_heads, threads = query.shape[0], key.shape[0], torch.get_num_threads()
        parts = attention_parts(len(rows.lengths), heads, kv_heads, threads)
        strides = [tensor.stride(axis) for tensor in (query, key, value) for axis in (1, 0)]
        values = (heads, kv_heads, query.shape[2], len(rows.lengths), window or 0, max(rows.lengths), parts, *strides)
        sizes = (ctypes.c_int64 * len(values))(*values)
        space = getattr(self._library, f"attention_space_{_NAMES[query.dtype]}")
        space.restype = ctypes.c_int64
        return sizes, query.new_empty(threads * space(sizes), dtype=torch.uint8)

    def _call(self, name: str, types: tuple[Tensor, ...]) -> Callable[..., None]:
        """Return the function of that name for tensors of these dtypes, with the number of threads filled in."""
        function = getattr(self._library, "_".join((name, *(_NAMES[tensor.dtype] for tensor in types))))
        if not function.argtypes:
            function.argtypes, function.restype = [_C[code] for code in _TAKES[name]], None
        threads = torch.get_num_threads()
        return lambda *args: function(*args, threads)


@functools.cache
def kernels() -> tuple[Arithmetic, str]:
    """Return this process's operations, and the reason if they are torch's."""
    result = compiling.finished()
    if isinstance(result, Path):
        try:
            return Kernels(result), ""
        except OSError as error:
            result.unlink(missing_ok=True)  # damaged: the next process compiles it again
            result = f"not loaded: {error}"
    return Arithmetic(), result


def _known(*tensors: Tensor) -> bool:
    """Whether dtype and device of the tensors are supported by the library."""
    return all(tensor.dtype in _NAMES and not tensor.is_cuda for tensor in tensors)


def _fit(*tensors: Tensor) -> bool:
    """Whether the library supports the tensors and they are contiguous."""
    return _known(*tensors) and all(tensor.is_contiguous() for tensor in tensors)


def _gates(gate: Tensor, up: Tensor) -> bool:
    """Whether both have the same supported dtype and the same strides, with contiguous rows."""
    return _known(gate) and gate.dtype == up.dtype and gate.stride() == up.stride() and gate.stride(1) == 1


def _at(x: Tensor) -> int:
    return x.data_ptr()
