"""Causal attention over rows that lie one behind another without padding; each row sees only itself.

Compiled (attention.cpp) where that could be done. Otherwise plain matrix products in blocks of queries: a block looks
at the keys up to its own end, so much of the square is never computed, and no more than a block of it is ever held. On
a CPU either takes a fraction of the time of torch's flash kernel, whose backward pass does not use the matrix units
(benchmarks/RESULTS.md). What rows begin with alike is there once (engine/fast/layout.py), so a block's keys may lie in
several places. The softmax is in float32, as in transformers' eager attention. On a GPU it is torch's flash attention
for rows of their own lengths. What it does not do: dropout of attention, soft caps, masks other than causal ones.
"""

from typing import Any

import torch
from torch import Tensor

from studio.engine.compat.torch import softmax_backward
from studio.engine.fast.kernels import Kernels
from studio.engine.fast.layout import Block, Rows
from studio.engine.fast.ops.torch_ops import Arithmetic
from studio.recipe.fast_path import KEPT_KEYS


def attend(
    query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float, window: int | None, by: Arithmetic
) -> Tensor:
    """query [heads, tokens, d], key and value [kv heads, tokens, d] to [tokens, heads, d].

    On a GPU rows may share nothing. window: how many keys a query sees, its own among them; None: all that came before.
    """
    if query.is_cuda:
        return flash(query, key, value, rows, scaling, window)
    if isinstance(by, Kernels) and by.attends(query, key, value):
        compiled: Tensor = CompiledAttention.apply(query, key, value, rows, scaling, window, by)
        return compiled
    found: Tensor = RowAttention.apply(query, key, value, rows, scaling, window, by)
    return found


def flash(query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float, window: int | None) -> Tensor:
    """The same by torch's kernel, which takes 16 bits and at most 256 numbers a head. Never run so far: see RESULTS."""
    from torch.nn.attention import varlen

    bounds, longest = rows.bounds(query), max(rows.lengths)
    by_token = [one.transpose(0, 1) for one in (query, key, value)]
    before = -1 if window is None else window - 1  # -1: all that came before
    found: Tensor = varlen.varlen_attn(
        *by_token, bounds, bounds, longest, longest, scale=scaling, window_size=(before, 0), enable_gqa=True
    )
    return found


class CompiledAttention(torch.autograd.Function):
    """query [heads, tokens, d], key and value [kv heads, tokens, d] to [tokens, heads, d]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Rows,
        scaling: float,
        window: int | None,
        by: Kernels,
    ) -> Tensor:
        answer, sums = by.attention(query, key, value, rows, scaling, window)
        ctx.save_for_backward(query, key, value, sums)
        ctx.told, ctx.by = (rows, scaling, window), by
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        return *ctx.by.attention_backward(grad.contiguous(), ctx.saved_tensors, *ctx.told), None, None, None, None


class RowAttention(torch.autograd.Function):
    """query [heads, tokens, d], key and value [kv heads, tokens, d] to [tokens, heads, d]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Rows,
        scaling: float,
        window: int | None,
        by: Arithmetic,
    ) -> Tensor:
        key, value = key.contiguous(), value.contiguous()
        heads, tokens, width = query.shape
        shared = heads // key.shape[0]
        answer = query.new_empty(tokens, heads, width)
        kept: list[Tensor] = []
        for block in rows.blocks(window):
            scores = torch.bmm(_grouped(query, block, shared), _of(key, block).transpose(1, 2))
            chances = by.softmax(scores, block.queries, window, rows, scaling)
            answer[block.first : block.end] = _ungrouped(torch.bmm(chances, _of(value, block)), shared)
            if block.keys <= KEPT_KEYS:
                kept.append(chances)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.rows, ctx.scaling, ctx.window, ctx.by = rows, scaling, window, by
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        query, key, value, *kept = ctx.saved_tensors
        shared = query.shape[0] // key.shape[0]
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        stored = iter(kept)
        for block in ctx.rows.blocks(ctx.window):
            q, k, v = _grouped(query, block, shared), _of(key, block), _of(value, block)
            if block.keys <= KEPT_KEYS:
                chances = next(stored)
            else:
                chances = ctx.by.softmax(
                    torch.bmm(q, k.transpose(1, 2)), block.queries, ctx.window, ctx.rows, ctx.scaling
                )
            g = _grouped(grad.transpose(0, 1), block, shared)
            _add_to(d_value, block, torch.bmm(chances.transpose(1, 2), g))
            d_chances = torch.bmm(g, v.transpose(1, 2))
            d_scores = softmax_backward(d_chances, chances).mul_(ctx.scaling)
            _ungrouped_into(torch.bmm(d_scores, k), shared, d_query[:, block.first : block.end])
            _add_to(d_key, block, torch.bmm(d_scores.transpose(1, 2), q))
        return d_query, d_key, d_value, None, None, None, None


def _grouped(all_of: Tensor, block: Block, shared: int) -> Tensor:
    """A block's tokens as [kv heads, shared * tokens, d]: the query heads of a key head, one behind another."""
    part = all_of[:, block.first : block.end]
    return part.reshape(part.shape[0] // shared, shared * part.shape[1], part.shape[2])


def _of(all_of: Tensor, block: Block) -> Tensor:
    """[kv heads, tokens, d] where a block's keys are."""
    parts = [all_of[:, first:end] for first, end in block.spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _add_to(all_of: Tensor, block: Block, part: Tensor) -> None:
    """Add what belongs to a block's keys to where they are."""
    for (first, end), some in zip(block.spans, part.split([end - first for first, end in block.spans], 1), strict=True):
        all_of[:, first:end] += some


def _ungrouped(part: Tensor, shared: int) -> Tensor:
    """[kv heads, shared * tokens, d] as [tokens, heads, d]."""
    groups, stacked, width = part.shape
    return part.view(groups * shared, stacked // shared, width).transpose(0, 1)


def _ungrouped_into(part: Tensor, shared: int, answer: Tensor) -> None:
    """[kv heads, shared * tokens, d] into [heads, tokens, d]."""
    groups, stacked, width = part.shape
    answer.copy_(part.view(groups * shared, stacked // shared, width))
