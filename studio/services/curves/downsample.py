"""Min/max downsampling and exponential smoothing. Pure functions over arrays."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
_NOTHING = 37.0  # -ln of the weight below which a point no longer changes a float64


def downsample(x: Array, y: Array, most: int) -> tuple[Array, Array]:
    """Downsample to about `most` points; x must not decrease. Points with a non-finite value are dropped.

    The window is cut into most/2 stretches of equal length along x; the lowest and the highest point of each are kept,
    and the first and the last of all.
    """
    finite = np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if len(y) <= most:
        return x, y
    lowest, highest = stretches(x, y, y, most)
    kept = np.unique(np.concatenate((lowest, highest, [0, len(y) - 1])))
    return x[kept], y[kept]


def stretches(places: Array, low: Array, high: Array, most: int) -> tuple[Index, Index]:
    """The groups of rows that contain the lowest and the highest value of each stretch, given the groups' extremes.

    places: x at which each group begins, non-decreasing. The window is cut into most/2 stretches of equal length along
    x; a group belongs to the stretch in which it begins. A group may be a single row.
    """
    edges = np.linspace(places[0], places[-1], most // 2 + 1)[:-1]
    starts = np.unique(np.append(0, np.searchsorted(places, edges)))
    starts = starts[starts < len(places)]
    sizes = np.diff(np.append(starts, len(places)))
    return (
        _first_of(low, np.minimum.reduceat(low, starts), starts, sizes),
        _first_of(high, np.maximum.reduceat(high, starts), starts, sizes),
    )


def _first_of(values: Array, best: Array, starts: Index, sizes: Index) -> Index:
    """The index at which each stretch first reaches its best value."""
    equal = np.flatnonzero(values == np.repeat(best, sizes))
    stretch = np.searchsorted(starts, equal, side="right")
    begins: Index = equal[np.append(True, stretch[1:] > stretch[:-1])]
    return begins


def smoothed(values: Array, weight: float, first: int, most: int, before: int = 0) -> tuple[Index, Array, float]:
    """The exponential moving average of finite `values` at up to `most` indices from `first` on, and its state.

    s_t = w·s_{t-1} + (1-w)·v_t with s_0 = 0, shown as s_t / (1 - w^t): the bias correction of Adam (Kingma and Ba,
    2015, section 3), as in TensorBoard. Every value counts, whichever indices are returned. The state is the last s_t,
    from which the caller can continue with further values. before: the number of earlier values that are too far back
    to count.
    """
    count = len(values) - first
    if count <= 0 or not 0 < weight < 1:
        return np.empty(0, np.intp), np.empty(0), 0.0
    gap = math.ceil(count / most)
    blocks = math.ceil(count / gap)
    start = len(values) - blocks * gap  # may be before the first value: zero padding adds nothing
    stretch = values[max(0, start) :]
    if start < 0:
        stretch = np.concatenate((np.zeros(-start), stretch))
    falling = (1 - weight) * weight ** np.arange(gap - 1, -1, -1, dtype=np.float64)
    sums = stretch.reshape(blocks, gap) @ falling
    state = _state_before(values[: max(0, start)], weight)
    kept = weight**gap
    states = np.empty(blocks)
    for block in range(blocks):
        state = kept * state + float(sums[block])
        states[block] = state
    at = start + gap * np.arange(1, blocks + 1) - 1
    return at, states / -np.expm1((at + before + 1) * math.log(weight)), state


def smoothed_of(
    windows: Callable[[Index, int], Array],
    part: Callable[[int, int], Array],
    weight: float,
    window: tuple[int, int],
    most: int,
) -> tuple[Index, Array, float]:
    """`smoothed` for the rows of a window of a long column of finite values; reads only the values that count.

    windows(rows, n): for increasing rows, the values of the n rows up to each. part(first, last): values of a range.
    """  # fmt: skip
    first, last = window
    count = last - first
    if count <= 0 or not 0 < weight < 1:
        return np.empty(0, np.intp), np.empty(0), 0.0
    reach, gap = _reach(weight), math.ceil(count / most)
    if 2 * reach >= gap:
        before = max(0, first - gap - reach)
        at, shown, state = smoothed(part(before, last), weight, first - before, most, before)
        return at + before, shown, state
    at = last - 1 - gap * np.arange(math.ceil(count / gap) - 1, -1, -1)
    states = windows(at, reach) @ ((1 - weight) * weight ** np.arange(reach - 1, -1, -1, dtype=np.float64))
    return at, states / -np.expm1((at + 1) * math.log(weight)), float(states[-1])


def _reach(weight: float) -> int:
    """The number of previous values that still count."""
    return math.ceil(_NOTHING / -math.log(weight))


def _state_before(values: Array, weight: float) -> float:
    reach = min(len(values), _reach(weight))
    if reach == 0:
        return 0.0
    return float(values[-reach:] @ ((1 - weight) * weight ** np.arange(reach - 1, -1, -1, dtype=np.float64)))
