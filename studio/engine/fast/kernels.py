"""The arithmetic in one pass each, and attention: kernels.cpp and attention.cpp, where they could be compiled
(machine/compiling.py).

What it does not do: other products, GPUs, types other than float32 and bfloat16. That stays torch's.
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
# The arguments of each function: pointers, longs, ints and floats, the threads last.
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
    """By the compiled library; what it is not made for by torch."""

    def __init__(self, library: Path) -> None:
        """Raises OSError where it cannot be loaded."""
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
        alike = len({one.dtype for one in (x, cos, sin, answer)}) == 1
        if not (_known(x) and _fit(cos, sin) and alike and x.stride(2) == answer.stride(2) == 1):
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
        """x in 4 bits, by blocks of `size` numbers: uint8 [half as many], and each block's largest magnitude, float32.
        bounds: 15 float32, rising; names: uint8, what each of the 16 stretches between them is called."""
        x = (x if x.dtype in _NAMES else x.float()).contiguous()
        packed = x.new_empty((x.numel() + 1) // 2, dtype=torch.uint8)
        largest = x.new_empty(-(-x.numel() // size), dtype=torch.float32)
        call = self._call("quantize_4bit", (x,))
        call(_at(x), _at(bounds), _at(names), _at(largest), _at(packed), x.numel(), size)
        return packed, largest

    def attends(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether `attention` takes tensors like these; otherwise it is products and softmaxes
        (engine/fast/ops/attention.py)."""
        alike = len({one.dtype for one in (query, key, value)}) == 1
        even = all(one.stride(2) == 1 and one.stride(0) % 2 == one.stride(1) % 2 == 0 for one in (query, key, value))
        return _known(query) and alike and even and self.attends_in(query.dtype, query.shape[2])

    def attends_in(self, dtype: torch.dtype, head_dim: int) -> bool:
        """Whether attention is compiled for heads of so many numbers of that type."""
        return head_dim % STEP == 0 and hasattr(self._library, f"attention_{_NAMES[dtype]}")

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of query [heads, tokens, d] to key and value [kv heads, tokens, d]: [tokens, heads, d], and for
        each the logarithm of what its chances were divided by, float32 [tokens, heads]."""
        heads, tokens, width = query.shape
        answer, sums = query.new_empty(tokens, heads, width), query.new_empty(tokens, heads, dtype=torch.float32)
        sizes, space = self._attention(query, key, value, rows, window)
        tensors = (*rows.table(), query, key, value, answer, sums, space)
        self._call("attention", (query,))(sizes, scaling, *map(_at, tensors))
        return answer, sums

    def attention_backward(
        self, grad: Tensor, asked: tuple[Tensor, ...], rows: Rows, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, key and value; asked: those and the sums; grad: of the answer, contiguous."""
        query, key, value, _ = asked
        made = [one.new_empty(one.shape[1], one.shape[0], one.shape[2]) for one in (query, key, value)]
        sizes, space = self._attention(query, key, value, rows, window)
        parts = 2 * sizes[1] * sizes[6]
        partial = query.new_empty(parts * sum(rows.lengths) * query.shape[2], dtype=torch.float32)
        tensors = (*rows.table(), grad, *asked, *made, partial, space)
        self._call("attention_backward", (query,))(sizes, scaling, *map(_at, tensors))
        d_query, d_key, d_value = (one.transpose(0, 1) for one in made)
        return d_query, d_key, d_value

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None
    ) -> tuple[Any, Tensor]:
        """What attention.cpp is told of the sizes, and the memory that its threads work in."""
        heads, kv_heads, threads = query.shape[0], key.shape[0], torch.get_num_threads()
        parts = attention_parts(len(rows.lengths), heads, kv_heads, threads)
        lie = [one.stride(axis) for one in (query, key, value) for axis in (1, 0)]
        told = (heads, kv_heads, query.shape[2], len(rows.lengths), window or 0, max(rows.lengths), parts, *lie)
        sizes = (ctypes.c_int64 * len(told))(*told)
        space = getattr(self._library, f"attention_space_{_NAMES[query.dtype]}")
        space.restype = ctypes.c_int64
        return sizes, query.new_empty(threads * space(sizes), dtype=torch.uint8)

    def _call(self, name: str, types: tuple[Tensor, ...]) -> Callable[..., None]:
        """The function of that name for tensors of these types, but for its last argument."""
        function = getattr(self._library, "_".join((name, *(_NAMES[one.dtype] for one in types))))
        if not function.argtypes:
            function.argtypes, function.restype = [_C[one] for one in _TAKES[name]], None
        threads = torch.get_num_threads()
        return lambda *given: function(*given, threads)


@functools.cache
def kernels() -> tuple[Arithmetic, str]:
    """The arithmetic of this process, and why it is torch's where it is."""
    found = compiling.finished()
    if isinstance(found, Path):
        try:
            return Kernels(found), ""
        except OSError as error:
            found.unlink(missing_ok=True)  # damaged: the next one compiles it again
            found = f"not loaded: {error}"
    return Arithmetic(), found


def _known(*tensors: Tensor) -> bool:
    """Whether they are of types, and in a place, that the library takes."""
    return all(one.dtype in _NAMES and not one.is_cuda for one in tensors)


def _fit(*tensors: Tensor) -> bool:
    """Whether the library takes them, and they lie whole in memory."""
    return _known(*tensors) and all(one.is_contiguous() for one in tensors)


def _gates(gate: Tensor, up: Tensor) -> bool:
    """Rows of both as wide, as far apart, and of a type that the library takes."""
    return _known(gate) and gate.dtype == up.dtype and gate.stride() == up.stride() and gate.stride(1) == 1


def _at(x: Tensor) -> int:
    return x.data_ptr()
