"""Norms, gates, rotations and softmaxes in torch, forward and backward, on plain tensors.

Each processes the tokens in pieces that fit into a core's cache, because on a CPU memory access takes most of the time.
kernels.py does the same in one pass, if it could be compiled.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from studio.engine.compat.torch import gelu_backward, silu_backward
from studio.engine.fast.layout import Rows
from studio.engine.fast.ops.prepacked import Weight
from studio.recipe.fast_path import EVEN, PIECE, SCORES

SCORES_PIECE = 2**19  # logits per piece of the softmax


def pieces(x: Tensor) -> Iterator[slice]:
    """Yield slices of x [tokens, ...] with about one piece per thread; on a GPU all of it."""
    tokens, width = x.shape[0], x[0].numel()
    step = tokens if x.is_cuda else max(16, PIECE * torch.get_num_threads() // width)
    for first in range(0, tokens, step):
        yield slice(first, min(first + step, tokens))


class Arithmetic:
    """The operations in torch, on any device."""

    def norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return x * rsqrt(mean(x²) + eps) times a weight, [n, width], and the reciprocal roots, [n, 1].

        dtype: type of the output. A weight multiplies after rounding to its type, as in llama; a float32 weight
        multiplies before the rounding, as in Gemma.
        """
        answer = torch.empty_like(x, dtype=dtype)
        scales = x.new_empty(x.shape[0], 1, dtype=torch.float32)
        for piece in pieces(x):
            wide = x[piece].float()
            scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            scales[piece] = scale
            answer[piece] = _scaled(wide, scale, weight)
        return answer, scales

    def normed(self, x: Tensor, weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """Recompute the norm's output from its roots, bit for bit."""
        answer = torch.empty_like(x, dtype=dtype)
        for piece in pieces(x):
            answer[piece] = _scaled(x[piece].float(), scales[piece], weight)
        return answer

    def norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """Gradient of x."""
        d_x = torch.empty_like(x)
        for piece in pieces(x):
            scale = scales[piece]
            normed = x[piece].float() * scale
            wide = (grad[piece] * weight).float()
            along = torch.linalg.vecdot(wide, normed).div_(-x.shape[-1]).unsqueeze(-1)
            d_x[piece] = wide.addcmul_(normed, along).mul_(scale)
        return d_x

    def gated(self, gate: Tensor, up: Tensor, act: str) -> Tensor:
        """Return act(gate) * up, [tokens, width]; act: "silu" or "gelu" (tanh form)."""
        answer = up.new_empty(up.shape)
        for piece in pieces(gate):
            torch.mul(_act(act, gate[piece]), up[piece], out=answer[piece])
        return answer

    def gated_backward(self, grad: Tensor, gate: Tensor, up: Tensor, act: str) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        d_gate, d_up = gate.new_empty(gate.shape), up.new_empty(up.shape)
        for piece in pieces(gate):
            torch.mul(_act(act, gate[piece]), grad[piece], out=d_up[piece])
            d_gate[piece] = _act_backward(act, grad[piece] * up[piece], gate[piece])
        return d_gate, d_up

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, answer: Tensor, sign: int) -> None:
        """Rotate x by the angles (sign 1) or back (sign -1) and write it to `answer`.

        x and answer: [tokens, heads, d]; cos and sin: [tokens, d]. Each number is paired with the one d/2 later.
        """
        half = x.shape[-1] // 2
        for piece in pieces(x):
            c, s = cos[piece, None, :half], sin[piece, None, :half]
            first, second = x[piece, :, :half], x[piece, :, half:]
            torch.mul(first, c, out=answer[piece, :, :half])
            answer[piece, :, :half].addcmul_(second, s, value=-sign)
            torch.mul(second, c, out=answer[piece, :, half:])
            answer[piece, :, half:].addcmul_(first, s, value=sign)

    def softmax(self, scores: Tensor, queries: int, window: int | None, rows: Rows, scale: float) -> Tensor:
        """Softmax in float32 of scores [groups, n * queries, keys] times scale; may overwrite the scores.

        The last query is at the position of the last key. A query sees `window` keys, including its own position;
        None: all up to it. rows: provides the masks.
        """
        by_head = scores.view(-1, queries, scores.shape[-1])
        torch.add(rows.mask(queries, scores.shape[-1], window, scores), by_head, alpha=scale, out=by_head)
        return torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)

    def token_scores(
        self, hidden: Tensor, weight: Weight, labels: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(label) [n], whether the label is the most likely token [n], and a gradient.

        The gradient is that of -log p(label) on hidden [n, width]; it is computed only if `learns`. weight: [words,
        width]. Logits exist for some tokens at a time only.
        """
        count, words = len(labels), len(weight.make())
        chances = hidden.new_empty(count, dtype=torch.float32)
        best = torch.empty(count, dtype=torch.bool, device=hidden.device)
        pull = torch.empty_like(hidden) if learns else hidden
        at_once = max(1, SCORES // words // EVEN * EVEN)
        for first in range(0, count, at_once):
            part = slice(first, min(first + at_once, count))
            scores = weight.through(hidden[part])
            chances[part], best[part] = self.score(scores, labels[part])
            if learns:
                pull[part] = weight.back(scores)
            del scores  # free them before the next ones are computed
        return chances, best, pull

    def score(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(label) and whether the label is the most likely; scores [n, words] become p - onehot(label)."""
        piece = len(labels) if scores.is_cuda else max(1, SCORES_PIECE // scores.shape[1])
        parts = [_score(scores[first : first + piece], labels[first : first + piece])
                 for first in range(0, len(labels), piece)]  # fmt: skip
        chances, best = zip(*parts, strict=True)
        return torch.cat(chances), torch.cat(best)


def _scaled(wide: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    # Not in place: `wide` may be the norm's input.
    return (wide * scale).to(weight.dtype).mul_(weight)


def _act(act: str, x: Tensor) -> Tensor:
    return silu(x) if act == "silu" else gelu(x, approximate="tanh")


def _act_backward(act: str, grad: Tensor, x: Tensor) -> Tensor:
    return silu_backward(grad, x) if act == "silu" else gelu_backward(grad, x)


def _score(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(labels), device=labels.device)
    of_label = scores[rows, labels].float()
    chances = torch.softmax(scores, -1, dtype=torch.float32)
    highest, place = chances.max(-1)
    # The highest probability is at least 1 / words, so its logarithm is finite; the label's own may be log(0).
    total = scores[rows, place].float() - highest.log()
    chances[rows, labels] -= 1
    scores.copy_(chances)
    return of_label - total, place == labels
