"""Packing: concatenate short examples into rows of up to max_length tokens, to reduce padding.

First-fit decreasing (Johnson 1974: at most 11/9 of the optimal number of rows). Each row records the lengths of its
examples, so that the engine can restrict attention to each of them. Examples are never cut here.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from studio.dataset.tokens.encode import IGNORED, Example


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several examples as one row. lengths: tokens of each example, in order."""

    input_ids: list[int]
    labels: list[int]
    lengths: list[int]


def pack(examples: Sequence[Example], max_length: int, seed: int) -> list[PackedRow]:
    """Pack examples into rows of at most max_length tokens; examples of equal length are shuffled by the seed."""
    return [_joined(row) for row in pack_order(examples, max_length, seed)]


def pack_order(examples: Sequence[Example], max_length: int, seed: int) -> list[list[Example]]:
    """Assign examples to rows; returns the examples of each row, in order."""
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)  # noqa: S311  (no secret)
    shuffled.sort(key=lambda example: len(example.input_ids), reverse=True)
    fitted = _first_fit([len(example.input_ids) for example in shuffled], max_length)
    rows: list[list[Example]] = [[] for _ in range(max(fitted, default=-1) + 1)]
    for example, row in zip(shuffled, fitted, strict=True):
        rows[row].append(example)
    return rows


def _joined(examples: list[Example]) -> PackedRow:
    row = PackedRow([], [], [])
    for example in examples:
        row.input_ids.extend(example.input_ids)
        # The first token of an example must not be predicted from the example before it.
        row.labels.extend([IGNORED, *example.labels[1:]])
        row.lengths.append(len(example.input_ids))
    return row


def _first_fit(lengths: list[int], room: int) -> list[int]:
    """For each length, the index of the first row with room for it.

    Uses a tree over the rows with the largest free room below each node, so a million examples take seconds.
    """
    leaves = 1
    while leaves < len(lengths):
        leaves *= 2
    tree = [room] * (2 * leaves)
    fitted = []
    for length in lengths:
        node = 1
        while node < leaves:
            node = 2 * node if tree[2 * node] >= length else 2 * node + 1
        fitted.append(node - leaves)
        tree[node] -= length
        while node > 1:
            node //= 2
            tree[node] = max(tree[2 * node], tree[2 * node + 1])
    return fitted
