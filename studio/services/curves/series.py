"""One line of a figure: a column of a run's points over an axis, downsampled to what a window can show.

Columns of a short run are read whole. For a long run the extremes of every 64 rows are stored (store/series/file.py): a
wide window is drawn from these alone, and single values are looked up where they are needed.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import numpy as np

from studio.services.curves.downsample import Array, Index, downsample, smoothed, smoothed_of, stretches
from studio.store.series.columns import Extremes, Table
from studio.store.series.file import GROUP

AxisName = Literal["step", "tokens", "epoch", "time"]
AXES: tuple[AxisName, ...] = get_args(AxisName)
Rows = tuple[int, int]
_LEAST = 4  # minimum points of a piece
_DENSE = 4  # rows per looked-up value up to which the whole range is read instead
_GROUPS = 2  # minimum groups per stretch; with fewer, the rows themselves are read


@dataclass(frozen=True, slots=True)
class Line:
    """One series in a window. `state` and `count` let the reader continue smoothing: see downsample.smoothed."""

    x: Array
    y: Array
    smooth_x: Array
    smooth_y: Array
    state: float
    count: int


NONE = Line(np.empty(0), np.empty(0), np.empty(0), np.empty(0), 0.0, 0)


class Places(Protocol):
    """Positions of the rows of a table on an axis, non-decreasing."""

    def take(self, rows: Index) -> Array: ...

    def part(self, first: int, last: int) -> Array: ...

    def near(self, rows: Index) -> Array:
        """Approximate positions of rows that begin a group, in increasing order."""

    def search(self, x: float, after: bool) -> int:
        """The number of rows below x, or with `after` below or at x."""


class _Known:
    """Places held in memory."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def take(self, rows: Index) -> Array:
        return self.values[rows]

    def part(self, first: int, last: int) -> Array:
        return self.values[first:last]

    near = take

    def search(self, x: float, after: bool) -> int:
        return int(np.searchsorted(self.values, x, side="right" if after else "left"))


class _Column:
    """Places taken from an increasing column of a long table."""

    def __init__(self, table: Table, name: str, extremes: Extremes, origin: float) -> None:
        self._table, self._name, self._extremes, self._origin = table, name, extremes, origin

    def take(self, rows: Index) -> Array:
        return self._table.take(self._name, rows) - self._origin

    def part(self, first: int, last: int) -> Array:
        return self._table.part(self._name, first, last) - self._origin

    def near(self, rows: Index) -> Array:
        at = np.searchsorted(self._extremes.first, rows, side="right") - 1
        return self._extremes.low[at] - self._origin

    def search(self, x: float, after: bool) -> int:
        return int(below(self._table, self._name, self._extremes, np.array([x + self._origin]), after)[0])


class _Between:
    """Places of evaluations, interpolated by step between those of training points."""

    def __init__(self, evals: Table, axis: "Axis") -> None:
        self._evals, self._axis = evals, axis
        self._cache: dict[tuple[float, bool], int] = {}

    def take(self, rows: Index) -> Array:
        return self._axis.at(self._evals.take("step", rows))

    def part(self, first: int, last: int) -> Array:
        return self._axis.at(self._evals.part("step", first, last))

    def near(self, rows: Index) -> Array:
        return self._axis.near(self._evals.take("step", rows))

    def search(self, x: float, after: bool) -> int:
        if (x, after) not in self._cache:
            self._cache[x, after] = self._search(x, after)
        return self._cache[x, after]

    def _search(self, x: float, after: bool) -> int:
        low, high = 0, len(self._evals)
        if not math.isfinite(x):
            return low if x < 0 else high
        while low < high:
            middle = (low + high) // 2
            here = float(self.take(np.array([middle]))[0])
            low, high = (middle + 1, high) if here < x or (after and here == x) else (low, middle)
        return low


class Axis:
    """Maps steps to x. A value that a point lacks (an evaluation counts no tokens) is interpolated."""

    def __init__(self, name: AxisName, metrics: Table, started: float | None) -> None:
        self.name, self._metrics = name, metrics
        self.origin = 0.0
        if name == "time" and len(metrics):
            first = float(metrics.take("time", np.array([0]))[0])
            self.origin = first if started is None else min(started, first)
        self._steps = metrics.extremes("step")
        self._own = _rising(metrics, name)
        self._places: Places
        if self._own is not None:
            self._places = _Column(metrics, name, self._own, self.origin)
        else:
            self._places = _Known(self._clean(metrics[name]) if len(metrics) else np.empty(0))

    def of(self, table: Table) -> Places:
        """The places of a table's points. They never decrease, even where the clock was set back."""
        if table is self._metrics:
            return self._places
        extremes = _rising(table, self.name)
        if extremes is not None:
            return _Column(table, self.name, extremes, self.origin)
        known = table.extremes(self.name)
        if self.name != "step" and known is not None and known.finite < len(table):
            return _Between(table, self)
        values = table[self.name]
        if self.name != "step" and not np.isfinite(values).all():
            return _Known(self.at(table["step"]))
        return _Known(self._clean(values))

    def _clean(self, values: Array) -> Array:
        if self.name == "step":
            return values
        known = np.isfinite(values)
        if not known.all():
            if not known.any():
                return np.zeros(len(values))
            values = np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
        return np.maximum.accumulate(values - self.origin) if len(values) else values

    def at(self, steps: Array) -> Array:
        """Positions of steps, interpolated between those that have points."""
        count = len(self._metrics)
        if self.name == "step" or not count or not len(steps):
            return steps
        if self._steps is None:
            return np.interp(steps, self._metrics["step"], self._places.part(0, count))
        edges = np.array([steps.min(), steps.max()])
        first, last = below(self._metrics, "step", self._steps, edges, True).tolist()
        first, last = max(0, first - 1), min(count, last + 1)
        if last - first <= _DENSE * len(steps):
            return np.interp(steps, self._metrics.part("step", first, last), self._places.part(first, last))
        after = np.clip(below(self._metrics, "step", self._steps, steps, True), 1, max(1, count - 1))
        before = after - 1
        after = np.minimum(after, count - 1)
        both = np.concatenate((before, after))
        x0, x1 = np.split(self._places.take(both), 2)
        s0, s1 = np.split(self._metrics.take("step", both), 2)
        share = np.clip((steps - s0) / np.where(s1 > s0, s1 - s0, 1.0), 0.0, 1.0)
        return x0 + share * (x1 - x0)

    def near(self, steps: Array) -> Array:
        """Approximate positions of steps, interpolated between groups."""
        if self._own is None or self._steps is None:
            return self.at(steps)
        return np.interp(steps, self._steps.low, self._own.low - self.origin)


def _rising(table: Table, name: str) -> Extremes | None:
    """The extremes of a column that can be an axis as it is: increasing and finite. None for any other."""
    extremes = table.extremes(name)
    return extremes if extremes is not None and extremes.rises and extremes.finite == len(table) else None


def below(table: Table, name: str, extremes: Extremes, values: Array, after: bool) -> Index:
    """For each value, the number of rows of an increasing column below it, or with `after` below or equal to it."""
    side: Literal["left", "right"] = "right" if after else "left"
    # Only the last group that begins at or below the value can have rows on both sides of it.
    group = np.searchsorted(extremes.low, values, side=side) - 1
    low = np.where(group < 0, 0, extremes.first[np.maximum(group, 0)])
    high = np.append(extremes.first, len(table))[group + 1]
    high = np.where(group < 0, 0, high)
    # Steps mostly rise evenly: probe the row expected then and the one before it, and bisect after that.
    likely = _evenly(extremes, np.maximum(group, 0), values, after) + low
    probes = iter((likely - 1, likely))
    while (open_ := low < high).any():
        middle = np.clip(next(probes, (low + high) // 2), low, high - 1)
        here = np.zeros(len(values))
        here[open_] = table.take(name, middle[open_])
        up = open_ & ((here <= values) if after else (here < values))
        low, high = np.where(up, middle + 1, low), np.where(open_ & ~up, middle, high)
    return low


def _evenly(extremes: Extremes, group: Index, values: Array, after: bool) -> Index:
    """The rows of each group below a value, if they rose evenly from the lowest to the highest of the group."""
    low, rise = extremes.low[group], extremes.high[group] - extremes.low[group]
    gaps = np.append(np.diff(extremes.first), GROUP)[group] - 1
    even = (values - low) * gaps / np.where(rise > 0, rise, 1.0)
    count = np.clip(np.floor(even) + 1 if after else np.ceil(even), 0, gaps + 1)
    rows: Index = count.astype(np.intp)
    return rows


def line(
    table: Table, name: str, places: Places, edges: tuple[float, float], weight: float, most: Rows,
    log: bool = False,
) -> Line:  # fmt: skip
    """A column in a window of the axis. most: approximate numbers of logged and of smoothed points.

    log: the axis is logarithmic. The window is cut where x doubles, and each piece gets its share of the points.
    """
    extremes = table.extremes(name)
    if extremes is not None and extremes.finite == 0:
        return NONE
    whole = extremes is not None and extremes.finite == len(table)
    column = _Filed(table, name, places, extremes) if extremes is not None and whole else _Arrays(table, name, places)
    window = inside(column.places, column.count, edges)
    pieces = _octaves(column.places, window, most) if log else [(window, most)]
    return _joined([column.piece(rows, weight, share) for rows, share in pieces])


def _joined(pieces: list[Line]) -> Line:
    if len(pieces) < 2:
        return pieces[0] if pieces else NONE
    x, y = np.concatenate([piece.x for piece in pieces]), np.concatenate([piece.y for piece in pieces])
    smooth = np.concatenate([piece.smooth_x for piece in pieces]), np.concatenate([piece.smooth_y for piece in pieces])
    return Line(x, y, *smooth, pieces[-1].state, pieces[-1].count)


def _octaves(places: Places, window: Rows, most: Rows) -> list[tuple[Rows, Rows]]:
    """Pieces of a window between doublings of x, which must be above zero, and the point budget of each piece.

    A doubling is ln 2 wide on a logarithmic axis. The stretches of a piece are even in x, so the leftmost looks widest;
    the budget keeps it no wider than a stretch would be if all were even on the axis.
    """
    first, last = max(window[0], places.search(0.0, True)), window[1]
    if first >= last:
        return []
    low, high = places.take(np.array([first, last - 1])).tolist()
    count = max(1, math.ceil(math.log2(high / low)))
    cuts = [places.search(low * 2**power, False) for power in range(1, count)]
    raw, smooth = (max(_LEAST, math.ceil(limit / (count * math.log(2)))) for limit in most)
    return [((a, b), (raw, smooth)) for a, b in pairwise([first, *cuts, last]) if b > a]


def inside(places: Places, count: int, edges: tuple[float, float]) -> tuple[int, int]:
    """The rows of a window and one neighbour on either side, so that a line reaches the edges."""
    low, high = edges
    first = 0 if low == -math.inf else max(0, places.search(low, False) - 1)
    return first, count if high == math.inf else min(count, places.search(high, True) + 1)


class _Filed:
    """A column of finite values with stored extremes."""

    def __init__(self, table: Table, name: str, places: Places, extremes: Extremes) -> None:
        self._table, self._name, self._extremes = table, name, extremes
        self.places, self.count = places, len(table)

    def piece(self, rows: Rows, weight: float, most: Rows) -> Line:
        first, last = rows
        table, name, places = self._table, self._name, self.places
        if last - first > GROUP * _GROUPS * (most[0] // 2):
            x, y = _from_extremes(table, name, self._extremes, places, rows, most[0])
        else:
            x, y = downsample(places.part(first, last), table.part(name, first, last), most[0])
        at, values, state = smoothed_of(
            lambda ends, reach: table.windows(name, ends, reach),
            lambda begin, end: table.part(name, begin, end, sure=False),
            weight, rows, most[1],
        )  # fmt: skip
        visible = at >= first
        return Line(x, y, places.take(at[visible]), values[visible], state, last)


class _Arrays:
    """The finite values of a column, held in memory."""

    def __init__(self, table: Table, name: str, places: Places) -> None:
        x, y = places.part(0, len(table)), table[name]
        finite = np.isfinite(y)
        if not finite.all():
            x, y = x[finite], y[finite]
        self._x, self._y = x, y
        self.places, self.count = _Known(x), len(x)

    def piece(self, rows: Rows, weight: float, most: Rows) -> Line:
        first, last = rows
        x, y = downsample(self._x[first:last], self._y[first:last], most[0])
        at, values, state = smoothed(self._y[:last], weight, first, most[1])
        visible = at >= first
        return Line(x, y, self._x[at[visible]], values[visible], state, last)


def _from_extremes(
    table: Table, name: str, extremes: Extremes, places: Places, window: tuple[int, int], most: int
) -> tuple[Array, Array]:
    """The lowest and highest point of each stretch, and the first and the last of all."""
    first, last = window
    ends = np.append(extremes.first[1:], len(table))
    # Groups entirely inside the window; the rest at its edges is read row by row.
    begin, end = int(np.searchsorted(extremes.first, first)), int(np.searchsorted(ends, last, side="right"))
    groups = slice(begin, end)
    lowest, highest = stretches(places.near(extremes.first[groups]), extremes.low[groups], extremes.high[groups], most)
    left, right = np.arange(first, extremes.first[begin]), np.arange(ends[end - 1], last)
    edge = np.unique(np.concatenate((left, right, [first, last - 1])))
    rows = np.concatenate((extremes.low_at[groups][lowest], extremes.high_at[groups][highest], edge))
    values = np.concatenate((extremes.low[groups][lowest], extremes.high[groups][highest], table.take(name, edge)))
    kept, at = np.unique(rows, return_index=True)
    return places.take(kept), values[at]
