"""Layout of the rows of a batch without padding, and which tokens attend to which."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.recipe.fast_path import EVEN, FILLED, blocks

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Queries `first` to `end`, as indices of computed tokens, and the spans of their keys, in order."""

    first: int
    end: int
    spans: Spans

    @property
    def queries(self) -> int:
        return self.end - self.first

    @property
    def keys(self) -> int:
        return _length(self.spans)


@dataclass(slots=True)
class Rows:
    """Which tokens of a batch's rows are computed where, and the masks of their blocks.

    lengths: computed tokens of each row. prefixes: for each row, the earlier row with the same first tokens and their
    number; these are computed only in the earlier row; empty: no row shares tokens. whole: tokens of each row in the
    batch; empty: the same as lengths. fills: whether to append a row of unused tokens if that makes products faster
    (fast_path.EVEN).
    """

    lengths: list[int]
    prefixes: list[tuple[int, int]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    fills: bool = False
    _spans: list[Spans] = field(default_factory=list)  # spans of each row's tokens
    _masks: dict[tuple[int, int, int, torch.dtype, Any], Tensor] = field(default_factory=dict)
    _bounds: Tensor | None = None
    _table: tuple[Tensor, Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        end = 0
        for length, (host, shared) in zip(self.lengths, self._shared(), strict=True):
            before = _between(self._spans[host], 0, shared) if shared else ()
            self._spans.append((*before, (end, end + length - shared)))
            end += length - shared
        self.whole = self.whole or self.lengths
        if self.fills and end >= FILLED and end % EVEN:
            self.lengths = [*self.lengths, EVEN - end % EVEN]
            self.prefixes = [*self.prefixes, (-1, 0)] if self.prefixes else []
            self._spans.append(((end, end + self.lengths[-1]),))

    @property
    def spare(self) -> bool:
        """Whether the computed tokens differ from those of the batch: skipped, shared or added."""
        return any(shared for _, shared in self.prefixes) or self.whole != self.lengths

    def blocks(self, window: int | None) -> Iterator[Block]:
        """Yield the blocks of all rows; queries see `window` keys, including their own (None: all earlier ones)."""
        for length, (_, shared), spans in zip(self.lengths, self._shared(), self._spans, strict=True):
            start = spans[-1][0]
            for first, end in blocks(length - shared):
                oldest = 0 if window is None else max(0, shared + first - window + 1)
                yield Block(start + first, start + end, _between(spans, oldest, shared + end))

    def places(self, like: Tensor) -> Tensor:
        """Index of the computation of each token of the batch, [tokens]; 0 for tokens that are not computed."""
        stretches = []
        for whole, length, spans in zip(self.whole, self.lengths, self._spans, strict=False):
            stretches += [torch.arange(first, end) for first, end in spans]
            stretches.append(torch.zeros(whole - length, dtype=torch.int64))
        return torch.cat(stretches).to(like.device)

    def computed(self, like: Tensor) -> Tensor:
        """Indices of the batch's computed tokens, in order."""
        own, start = [], 0
        for whole, length, (_, shared) in zip(self.whole, self.lengths, self._shared(), strict=False):
            own.append(torch.arange(start + shared, start + length))
            start += whole
        own.append(torch.arange(sum(self.lengths[len(self.whole) :])))
        return torch.cat(own).to(like.device)

    def bounds(self, like: Tensor) -> Tensor:
        """Start of each row and end of the last one, if all tokens are computed: int32, cached per batch."""
        if self._bounds is None:
            ends = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._bounds = ends.to(like.device)
        return self._bounds

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tables for attention.cpp, int64, cached per batch.

        Where each row's tokens are computed [tokens of all rows], where each row starts in that table [rows + 1],
        and how many tokens each row shares with an earlier one [rows].
        """
        if self._table is None:
            starts = torch.tensor([0, *self.lengths]).cumsum(0)
            stretches = [torch.arange(first, end) for spans in self._spans for first, end in spans]
            self._table = torch.cat(stretches), starts, torch.tensor([shared for _, shared in self._shared()])
        return self._table

    def mask(self, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
        """Mask with 0 where a query sees a key and -inf elsewhere; the last query is at the last key's position."""
        key = (queries, keys, window or 0, like.dtype, like.device)
        if key not in self._masks:
            place = torch.arange(keys - queries, keys, device=like.device)[:, None]
            other = torch.arange(keys, device=like.device)[None]
            hidden = other > place
            if window is not None:
                hidden |= other <= place - window
            self._masks[key] = torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(
                hidden, float("-inf")
            )
        return self._masks[key]

    def _shared(self) -> Sequence[tuple[int, int]]:
        return self.prefixes or [(-1, 0)] * len(self.lengths)


def _length(spans: Spans) -> int:
    return sum(end - first for first, end in spans)


def _between(spans: Spans, begin: int, end: int) -> Spans:
    """Return the spans of a row's tokens from `begin` to `end`."""
    parts, before = [], 0
    for first, last in spans:
        cut = max(first, first + begin - before), min(last, first + end - before)
        if cut[0] < cut[1]:
            parts.append(cut)
        before += last - first
    return tuple(parts)
