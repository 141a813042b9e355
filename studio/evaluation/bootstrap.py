"""Confidence intervals of a figure over rows, and of its change, by the paired bootstrap.

Rows are drawn with replacement, the same rows for both models, and the figure is computed for each draw: the middle 95%
of the results is the interval (percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13; paired over the same sentences: Koehn, Statistical Significance Tests for Machine Translation Evaluation,
EMNLP 2004). All draws are computed as one matrix product: how often each row was drawn, times its sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
# Maps sums over rows (draws × columns) to the figure of each draw.
Figure = Callable[[Table], Table]

DRAWS = 10_000
SEED = 20_260
_AT_ONCE = 4_000_000  # elements of the matrix of draws in memory at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


def mean(sums: Table) -> Table:
    """Mean of rows given as (value, 1)."""
    return np.asarray(sums[:, 0] / sums[:, 1])


def as_rows(values: Any) -> Table:
    """Convert one value per row to the rows that `mean` expects."""
    given = np.asarray(values, dtype=np.float64)
    return np.stack([given, np.ones_like(given)], axis=1)


def whole(rows: Table, figure: Figure) -> float:
    """The figure of all rows."""
    return float(figure(rows.sum(axis=0, keepdims=True))[0])


def drawn(rows: Table, figure: Figure) -> Table:
    """The figure of each of DRAWS draws; the same rows are drawn for every table of the same length."""
    count = len(rows)
    random = np.random.default_rng(SEED)
    figures = []
    left, each = DRAWS, max(1, _AT_ONCE // count)
    while left > 0:
        size = min(each, left)
        times = random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        figures.append(figure(times @ rows))
        left -= size
    return np.concatenate(figures)


def interval(rows: Table, figure: Figure) -> Interval:
    """A figure and its interval."""
    return _around(whole(rows, figure), drawn(rows, figure))


def change(before: Table, after: Table, figure: Figure) -> Interval:
    """Change of a figure from one model to another over the same rows, with its interval."""
    value = whole(after, figure) - whole(before, figure)
    return _around(value, drawn(after, figure) - drawn(before, figure))


def _around(value: float, draws: Table) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))
