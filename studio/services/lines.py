"""One line of a figure: a column of a run's points over an axis, thinned to what a window can show.

A short run's columns are worked on whole. Of a long one the extremes of every 64 rows are at hand (store/blocks.py): a
wide window is drawn from those alone, and single values are looked up where they are needed.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from studio.services.thinning import Array, Index, smoothed, smoothed_of, stretches, thin
from studio.store.blocks import GROUP
from studio.store.points import Extremes, Table

AxisName = Literal["step", "tokens", "epoch", "time"]
AXES: tuple[AxisName, ...] = get_args(AxisName)
_GROUPS = 2  # of a stretch, at least: below that its rows are read themselves


@dataclass(frozen=True, slots=True)
class Line:
    """One series in a window. `state` and `count` let the reader go on smoothing: see thinning.smoothed."""

    x: Array
    y: Array
    smooth_x: Array
    smooth_y: Array
    state: float
    count: int


NONE = Line(np.empty(0), np.empty(0), np.empty(0), np.empty(0), 0.0, 0)


class Places(Protocol):
    """Where the rows of a table are on an axis, never falling."""

    def take(self, rows: Index) -> Array: ...

    def part(self, first: int, last: int) -> Array: ...

    def near(self, rows: Index) -> Array:
        """About where rows are that begin a group; rising as they do."""

    def search(self, x: float, after: bool) -> int:
        """How many rows are below x, or with `after` at x as well."""


class _Known:
    """Places that are all at hand."""

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
    """Places that are a rising column of a long table."""

    def __init__(self, table: Table, name: str, told: Extremes, origin: float) -> None:
        self._table, self._name, self._told, self._origin = table, name, told, origin

    def take(self, rows: Index) -> Array:
        return self._table.take(self._name, rows) - self._origin

    def part(self, first: int, last: int) -> Array:
        return self._table.part(self._name, first, last) - self._origin

    def near(self, rows: Index) -> Array:
        at = np.searchsorted(self._told.first, rows, side="right") - 1
        return self._told.low[at] - self._origin

    def search(self, x: float, after: bool) -> int:
        return int(below(self._table, self._name, self._told, np.array([x + self._origin]), after)[0])


class _Between:
    """Places of evaluations, by their step, between those of training points."""

    def __init__(self, evals: Table, axis: "Axis") -> None:
        self._evals, self._axis = evals, axis
        self._found: dict[tuple[float, bool], int] = {}

    def take(self, rows: Index) -> Array:
        return self._axis.at(self._evals.take("step", rows))

    def part(self, first: int, last: int) -> Array:
        return self._axis.at(self._evals.part("step", first, last))

    def near(self, rows: Index) -> Array:
        return self._axis.near(self._evals.take("step", rows))

    def search(self, x: float, after: bool) -> int:
        if (x, after) not in self._found:
            self._found[x, after] = self._search(x, after)
        return self._found[x, after]

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
    """Steps to x. What a point lacks of an axis (an evaluation counts no tokens) is read between its neighbours."""

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
        """The places of a table's points: clocks may be set back, the order of points is not."""
        if table is self._metrics:
            return self._places
        told = _rising(table, self.name)
        if told is not None:
            return _Column(table, self.name, told, self.origin)
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
        """Where steps are, between those that have points."""
        count = len(self._metrics)
        if self.name == "step" or not count or not len(steps):
            return steps
        if self._steps is None:
            return np.interp(steps, self._metrics["step"], self._places.part(0, count))
        after = np.clip(below(self._metrics, "step", self._steps, steps, True), 1, max(1, count - 1))
        before = after - 1
        after = np.minimum(after, count - 1)
        x0, x1 = self._places.take(before), self._places.take(after)
        s0, s1 = self._metrics.take("step", before), self._metrics.take("step", after)
        share = np.clip((steps - s0) / np.where(s1 > s0, s1 - s0, 1.0), 0.0, 1.0)
        return x0 + share * (x1 - x0)

    def near(self, steps: Array) -> Array:
        """About where steps are: between the groups that have them."""
        if self._own is None or self._steps is None:
            return self.at(steps)
        return np.interp(steps, self._steps.low, self._own.low - self.origin)


def _rising(table: Table, name: str) -> Extremes | None:
    """The extremes of a column that can be an axis as it is."""
    told = table.extremes(name)
    return told if told is not None and told.rises and told.finite == len(table) else None


def below(table: Table, name: str, told: Extremes, values: Array, after: bool) -> Index:
    """For each value how many rows of a rising column are below it, or with `after` equal to it as well."""
    side: Literal["left", "right"] = "right" if after else "left"
    # The group before the first that begins beyond the value is the only one that may have rows on both sides.
    group = np.searchsorted(told.low, values, side=side) - 1
    low = np.where(group < 0, 0, told.first[np.maximum(group, 0)])
    high = np.append(told.first, len(table))[group + 1]
    high = np.where(group < 0, 0, high)
    while (low < high).any():
        open_ = low < high
        middle = (low + high) // 2
        here = np.zeros(len(values))
        here[open_] = table.take(name, middle[open_])
        up = open_ & ((here <= values) if after else (here < values))
        low, high = np.where(up, middle + 1, low), np.where(open_ & ~up, middle, high)
    return low


def line(
    table: Table, name: str, places: Places, edges: tuple[float, float], weight: float, most: tuple[int, int]
) -> Line:
    """A column in a window of the axis, in about so many points as logged and so many smoothed ones."""
    told = table.extremes(name)
    if told is not None and told.finite == 0:
        return NONE
    if told is None or told.finite < len(table):
        return _of_arrays(places.part(0, len(table)), table[name], edges, weight, most)
    first, last = inside(places, len(table), edges)
    if last - first > GROUP * _GROUPS * (most[0] // 2):
        x, y = _from_extremes(table, name, told, places, (first, last), most[0])
    else:
        x, y = thin(places.part(first, last), table.part(name, first, last), most[0])
    at, values, state = smoothed_of(
        lambda ends, reach: table.windows(name, ends, reach),
        lambda begin, end: table.part(name, begin, end, sure=False),
        weight, (first, last), most[1],
    )  # fmt: skip
    seen = at >= first
    return Line(x, y, places.take(at[seen]), values[seen], state, last)


def inside(places: Places, count: int, edges: tuple[float, float]) -> tuple[int, int]:
    """The rows of a window, with a neighbour on either side, so that a line runs to its edges."""
    low, high = edges
    first = 0 if low == -math.inf else max(0, places.search(low, False) - 1)
    return first, count if high == math.inf else min(count, places.search(high, True) + 1)


def _of_arrays(x: Array, y: Array, edges: tuple[float, float], weight: float, most: tuple[int, int]) -> Line:
    finite = np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    first, last = inside(_Known(x), len(x), edges)
    drawn_x, drawn_y = thin(x[first:last], y[first:last], most[0])
    at, values, state = smoothed(y[:last], weight, first, most[1])
    seen = at >= first
    return Line(drawn_x, drawn_y, x[at[seen]], values[seen], state, last)


def _from_extremes(
    table: Table, name: str, told: Extremes, places: Places, window: tuple[int, int], most: int
) -> tuple[Array, Array]:
    """The lowest and the highest point of each stretch, and the first and the last of all."""
    first, last = window
    ends = np.append(told.first[1:], len(table))
    # Groups that are in the window as a whole; what sticks out at its edges is read row by row.
    begin, end = int(np.searchsorted(told.first, first)), int(np.searchsorted(ends, last, side="right"))
    groups = slice(begin, end)
    lowest, highest = stretches(places.near(told.first[groups]), told.low[groups], told.high[groups], most)
    left, right = np.arange(first, told.first[begin]), np.arange(ends[end - 1], last)
    edge = np.unique(np.concatenate((left, right, [first, last - 1])))
    rows = np.concatenate((told.low_at[groups][lowest], told.high_at[groups][highest], edge))
    values = np.concatenate((told.low[groups][lowest], told.high[groups][highest], table.take(name, edge)))
    kept, at = np.unique(rows, return_index=True)
    return places.take(kept), values[at]
