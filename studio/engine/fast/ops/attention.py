"""Causal attention over concatenated rows without padding; each row attends only to itself.

Uses the compiled kernel (attention.cpp) if it is available. Otherwise plain matrix products in blocks of queries: a
block uses the keys up to its own end, so much of the score matrix is never computed, and only one block of it is in
memory. On a CPU both take a fraction of the time of torch's flash kernel, whose backward pass does not use the matrix
units (benchmarks/RESULTS.md). A prefix shared by several rows is stored once (engine/fast/layout.py), so a block's keys
can be in several places. The softmax is in float32, as in transformers' eager attention. On a GPU it is torch's flash
attention for rows of different lengths. Not supported: attention dropout, soft caps, non-causal masks.
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
    """Attention of query [heads, tokens, d] to key and value [kv heads, tokens, d]: [tokens, heads, d].

    On a GPU rows cannot share prefixes. window: number of keys a query sees, including its own; None: all earlier ones.
    """
    if query.is_cuda:
        return flash(query, key, value, rows, scaling, window)
    if isinstance(by, Kernels) and by.attends(query, key, value):
        compiled: Tensor = CompiledAttention.apply(query, key, value, rows, scaling, window, by)
        return compiled
    output: Tensor = RowAttention.apply(query, key, value, rows, scaling, window, by)
    return output


def flash(query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float, window: int | None) -> Tensor:
    """The same with torch's kernel, which needs 16 bits and at most 256 numbers per head. Not yet run: see RESULTS."""
    from torch.nn.attention import varlen

    bounds, longest = rows.bounds(query), max(rows.lengths)
    by_token = [tensor.transpose(0, 1) for tensor in (query, key, value)]
    before = -1 if window is None else window - 1  # -1: all earlier ones
    output: Tensor = varlen.varlen_attn(
        *by_token, bounds, bounds, longest, longest, scale=scaling, window_size=(before, 0), enable_gqa=True
    )
    return output


class CompiledAttention(torch.autograd.Function):
    """Compiled attention: query [heads, tokens, d], key and value [kv heads, tokens, d] to [tokens, heads, d]."""

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
        ctx.options, ctx.by = (rows, scaling, window), by
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        return *ctx.by.attention_backward(grad.contiguous(), ctx.saved_tensors, *ctx.options), None, None, None, None


class RowAttention(torch.autograd.Function):
    """Attention by blocks: query [heads, tokens, d], key and value [kv heads, tokens, d] to [tokens, heads, d]."""

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
    """A block's tokens as [kv heads, shared * tokens, d], with the query heads of a key head concatenated."""
    part = all_of[:, block.first : block.end]
    return part.reshape(part.shape[0] // shared, shared * part.shape[1], part.shape[2])


def _of(all_of: Tensor, block: Block) -> Tensor:
    """The part of [kv heads, tokens, d] that belongs to a block's keys."""
    parts = [all_of[:, first:end] for first, end in block.spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _add_to(all_of: Tensor, block: Block, part: Tensor) -> None:
    """Add `part`, which belongs to a block's keys, at their positions."""
    for (first, end), keys in zip(block.spans, part.split([end - first for first, end in block.spans], 1), strict=True):
        all_of[:, first:end] += keys


def _ungrouped(part: Tensor, shared: int) -> Tensor:
    """Reshape [kv heads, shared * tokens, d] to [tokens, heads, d]."""
    groups, stacked, width = part.shape
    return part.view(groups * shared, stacked // shared, width).transpose(0, 1)


def _ungrouped_into(part: Tensor, shared: int, answer: Tensor) -> None:
    """Write [kv heads, shared * tokens, d] to `answer` [heads, tokens, d]."""
    groups, stacked, width = part.shape
    answer.copy_(part.view(groups * shared, stacked // shared, width))
