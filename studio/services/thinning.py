"""Few points that look like many: extremes of each stretch for lines as logged, a moving average for smoothed ones.

Pure functions over arrays.
"""

import math

import numpy as np
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

Array = NDArray[np.float64]
_NOTHING = 37.0  # -ln of the weight below which a point adds nothing to a float64


def thin(x: Array, y: Array, most: int) -> tuple[Array, Array]:
    """At most about `most` of the points, x rising; those whose value is not finite are left out.

    The window is cut into most/2 stretches of equal length along x, and of each the lowest and the highest point stay
    (MinMax of tsdownsample, Van Der Donckt et al., SoftwareX 2025), with the first and the last of all.
    """
    finite = np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if len(y) <= most:
        return x, y
    downsampler = MinMaxDownsampler()  # type: ignore[no-untyped-call]
    kept = downsampler.downsample(np.ascontiguousarray(x), np.ascontiguousarray(y), n_out=most - most % 2)
    kept = np.union1d(kept, [0, len(y) - 1]).astype(np.intp)
    return x[kept], y[kept]


def smoothed(values: Array, weight: float, first: int, most: int) -> tuple[NDArray[np.intp], Array, float]:
    """The exponential moving average of finite `values` at up to `most` indices from `first` on, and its state.

    s_t = w·s_{t-1} + (1-w)·v_t with s_0 = 0, shown as s_t / (1 - w^t): the bias correction of Adam (Kingma and Ba,
    2015, section 3), as TensorBoard does it. Every value counts, at whichever indices the average is asked for. The
    state is the last s_t, with which whoever gets the next values goes on.
    """
    count = len(values) - first
    if count <= 0 or not 0 < weight < 1:
        return np.empty(0, np.intp), np.empty(0), 0.0
    gap = math.ceil(count / most)
    blocks = math.ceil(count / gap)
    start = len(values) - blocks * gap  # may lie before the first value: nothing adds nothing
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
    return at, states / -np.expm1((at + 1) * math.log(weight)), state


def _state_before(values: Array, weight: float) -> float:
    reach = min(len(values), math.ceil(_NOTHING / -math.log(weight)))
    if reach == 0:
        return 0.0
    return float(values[-reach:] @ ((1 - weight) * weight ** np.arange(reach - 1, -1, -1, dtype=np.float64)))
