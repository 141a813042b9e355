"""Token counts of a dataset's rows, and the loss from cutting at a length. No disk, no tokenizer."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from studio.dataset.tokens.encode import Refused
from studio.dataset.tokens.remarks import MEANINGS, Remark

Ints = NDArray[np.int32]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cut:
    """Loss from cutting at max_length tokens.

    tokens_lost: tokens beyond it; trained_lost: trained tokens among them; answers_lost: answers without any token
    left; rows_untrained: rows without any trained token left, which are dropped.
    """

    rows_cut: int
    tokens_lost: int
    trained_lost: int
    answers_lost: int
    rows_untrained: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts of a dataset's n examples, in the order of the dataset.

    rows: row numbers; totals: tokens before the cut, 0 for a row that the template refuses; held_out: rows held out by
    the dataset itself. The trained token ranges of the row at position i (from 0) are starts[offsets[i]:offsets[i + 1]]
    to ends[…], one for each answer. remarks: Remark flags of each example; left_out: tokens of thinking that the
    template leaves out of it.
    """

    rows: Ints
    totals: Ints
    held_out: Flags
    offsets: Ints
    starts: Ints
    ends: Ints
    remarks: Ints
    left_out: Ints
    refused: Refused = field(default_factory=Refused)

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, max_length: int) -> "Counts":
        """The counts with each plain text split into parts of at most max_length tokens (Tokenised.split)."""
        plain = (self.remarks & int(Remark.PLAIN_TEXT)) > 0
        parts = np.where(plain, np.maximum(1, -(-self.totals // max_length)), 1)
        if len(self) == 0 or parts.max() == 1:
            return self
        source = np.repeat(np.arange(len(self)), parts)
        number = np.arange(len(source)) - np.repeat(np.cumsum(parts) - parts, parts)
        is_part = parts[source] > 1
        totals = np.where(
            is_part, np.minimum(max_length, self.totals[source] - number * max_length), self.totals[source]
        )
        spans = np.where(is_part, 1, np.diff(self.offsets)[source])
        offsets = np.concatenate([[0], np.cumsum(spans)])
        # The ranges of what is not split are those of before; a part is trained whole.
        span_source = np.repeat(np.arange(len(source)), spans)
        within = np.arange(offsets[-1]) - offsets[:-1][span_source]
        before = np.minimum(self.offsets[source[span_source]] + within, max(0, len(self.starts) - 1))
        starts = np.where(is_part[span_source], 0, self.starts[before])
        ends = np.where(is_part[span_source], totals[span_source], self.ends[before])
        left_out = np.where(number == 0, self.left_out[source], 0)
        numbers = (self.rows[source], totals, offsets, starts, ends, self.remarks[source], left_out)
        rows, totals, offsets, starts, ends, remarks, left_out = (item.astype(np.int32) for item in numbers)
        held_out = self.held_out[source]
        return Counts(rows, totals, held_out, offsets, starts, ends, remarks, left_out, self.refused)

    def summary(self) -> dict[str, int]:
        """Tokens per row (min, p50, p95, max) and in total (total, trained)."""
        known = self._known
        if not len(known):
            return dict.fromkeys(("min", "p50", "p95", "max", "total", "trained"), 0)
        low, middle, high, top = np.percentile(known, [0, 50, 95, 100], method="inverted_cdf")
        return {
            "min": int(low),
            "p50": int(middle),
            "p95": int(high),
            "max": int(top),
            "total": int(known.sum(dtype=np.int64)),
            "trained": int((self.ends - self.starts).sum(dtype=np.int64)),
        }

    def histogram(self, bins: int = 40) -> tuple[list[int], list[int]]:
        """Histogram of row lengths: at most `bins` ranges of equal width, as (edges, counts) with one more edge."""
        known = self._known
        if not len(known):
            return [0, 1], [0]
        low, high = int(known.min()), int(known.max())
        width = -(-(high - low + 1) // bins)
        edges = list(range(low, high + width + 1, width))
        counts = np.bincount((known - low) // width, minlength=len(edges) - 1)
        return edges, [int(count) for count in counts]

    def at(self, max_length: int) -> Cut:
        """The loss from cutting examples at `max_length` tokens."""
        beyond = np.maximum(self.totals.astype(np.int64) - max_length, 0)
        lost = np.maximum(self.ends.astype(np.int64) - np.maximum(self.starts, max_length), 0)
        return Cut(
            rows_cut=int((beyond > 0).sum()),
            tokens_lost=int(beyond.sum()),
            trained_lost=int(lost.sum()),
            answers_lost=int((self.starts >= max_length).sum()),
            rows_untrained=len(self.untrained(max_length)),
        )

    def cut(self, max_length: int) -> Places:
        """Positions (from 0) of the rows with tokens beyond `max_length`."""
        return np.flatnonzero(self.totals > max_length)

    def lost(self, max_length: int) -> Places:
        """Positions of the rows that lose an answer entirely."""
        return np.flatnonzero(self._per_row(self.starts >= max_length))

    def untrained(self, max_length: int) -> Places:
        """Positions of the rows that keep no trained token, including refused rows, but not those that the file itself
        keeps from being trained."""
        never = (self.remarks & int(Remark.NEVER_TRAINED)) > 0
        return np.flatnonzero((self._per_row(self.starts < max_length) == 0) & ~never)

    def records(self) -> Places:
        """For each example, the position of its record in the dataset: one record may make several examples."""
        if not len(self):
            return np.zeros(0, np.intp)
        new = (self.rows[1:] != self.rows[:-1]) | (self.held_out[1:] != self.held_out[:-1])
        return np.concatenate([np.zeros(1, np.intp), np.cumsum(new, dtype=np.intp)])

    def remarked(self, remark: Remark) -> Places:
        """Positions of the examples with a remark."""
        return np.flatnonzero(self.remarks & int(remark))

    def remark_counts(self) -> dict[Remark, int]:
        """Number of examples with each remark that occurs."""
        counts = {remark: len(self.remarked(remark)) for remark in MEANINGS}
        return {remark: count for remark, count in counts.items() if count}

    @property
    def _known(self) -> Ints:
        """Totals of the rows that have a text."""
        return self.totals[self.totals > 0]

    def _per_row(self, answers: Flags) -> NDArray[np.int64]:
        """Number of flagged answers of each row."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(answers, dtype=np.int64)])
        counts: NDArray[np.int64] = np.diff(before[self.offsets])
        return counts
