"""Curves: what a page draws of a run's points, for the window and the width it shows; and all points as CSV."""

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from studio.errors import BadInput
from studio.services import runs
from studio.services.thinning import Array, smoothed, thin
from studio.services.verdicts import Curve, Verdict, judge
from studio.store import runs as rows
from studio.store.points import COLUMNS, Shelf, Table

if TYPE_CHECKING:
    from studio.services.studio import Studio

Axis = Literal["step", "tokens", "epoch", "time"]
AXES: tuple[Axis, ...] = get_args(Axis)
METRICS = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "step_seconds", "memory", "token_accuracy")
EVALS = {"eval_loss": "eval_loss", "eval_token_accuracy": "token_accuracy"}
WIDEST = 2000  # pixels
# Loss fills the page's width, the others share it: px of a line per px of the page.
_SHARE = {"loss": 1.0, "eval_loss": 1.0}
_SMALL = 0.33
_SMOOTH_POINTS = 400
_MOST_NEW = 2000  # new points from which drawing anew is cheaper than adding
_MOST_MARKS = 60  # of a kind
_MARKS = ("checkpoint", "note", "state", "sample", "resumed")
_PLURAL = {"checkpoint": "checkpoints", "note": "notes", "sample": "samples",
           "resumed": "resumes", "stopping": "stops"}  # fmt: skip
_WHOLE = ("seq", "step", "tokens", "memory")


@dataclass(frozen=True, slots=True)
class Line:
    """One series in a window. `state` and `count` let the reader go on smoothing: see thinning.smoothed."""

    x: Array
    y: Array
    smooth_x: Array
    smooth_y: Array
    state: float
    count: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step; `count` of the same kind where they stand too close to be told apart."""

    x: float
    step: int
    kind: str
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """What is drawn of a run. `again`: the new points cannot be added to what was drawn before; ask for it anew."""

    run: str
    cursor: int
    live: bool
    again: bool
    points: int
    lost: int  # points whose loss is no finite number
    extent: tuple[float, float]  # of x, over the whole run
    lines: dict[str, Line]
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class Look:
    """What a page asks for: the axis, the window on it (None: to the end), its width in pixels, the smoothing."""

    x: Axis = "step"
    low: float | None = None
    high: float | None = None
    width: int = 1000
    weight: float = 0.0

    @classmethod
    def parse(cls, x: str, low: float | None, high: float | None, width: int, weight: float) -> "Look":
        """A look from outside; raises BadInput when it makes no sense."""
        if x not in AXES:
            raise BadInput(f"The x axis is one of {', '.join(AXES)}, not {x!r}.")
        if not 0 <= weight < 1:
            raise BadInput("The smoothing weight is at least 0 and below 1.")
        if any(edge is not None and not math.isfinite(edge) for edge in (low, high)):
            raise BadInput("The edges of a window are finite numbers.")
        return cls(x, low, high, max(50, min(width, WIDEST)), weight)


_shelves: "weakref.WeakKeyDictionary[Studio, Shelf]" = weakref.WeakKeyDictionary()


def _tables(studio: "Studio", run_id: str) -> tuple[Table, Table, int, int]:
    """Metric points, evaluation points, the cursor behind them, and the seq of the newest resume."""
    shelf = _shelves.get(studio)
    if shelf is None:
        shelf = _shelves.setdefault(studio, Shelf(studio.database, studio.settings.cache / "curves"))
    # Points and marks are read one after the other: both are told up to what was taken in before either was read.
    known = rows.get(studio.database, run_id).last_seq
    metrics, evals, restarted = shelf.tables(run_id)
    return metrics.until(known), evals.until(known), known, restarted


def window(studio: "Studio", run_id: str, look: Look) -> Window:
    """A run's curves in a window: every extreme that can be seen there, and the marks."""
    info = runs.get(studio, run_id)
    metrics, evals, cursor, _ = _tables(studio, info.id)
    axis = _Axis(look.x, metrics, info.started)
    xs, eval_xs = axis.of(metrics), axis.of(evals)
    lines = {name: _line(name, xs, metrics[name], look) for name in METRICS}
    lines |= {name: _line(name, eval_xs, evals[column], look) for name, column in EVALS.items()}
    low, high = _edges(look)
    marks = _grouped([mark for mark in _marks(studio, info.id, axis, (0, cursor)) if low <= mark.x <= high])
    inside = slice(int(np.searchsorted(eval_xs, low)), int(np.searchsorted(eval_xs, high, side="right")))
    marks += _eval_marks(eval_xs[inside], evals["step"][inside], evals["eval_loss"][inside])
    ends = [edge for found in (xs, eval_xs) if len(found) for edge in (float(found[0]), float(found[-1]))]
    extent = (min(ends), max(ends)) if ends else (0.0, 0.0)
    lost = int(len(metrics) - np.isfinite(metrics["loss"]).sum())
    return Window(info.id, cursor, not info.final, False, len(metrics), lost, extent, lines, _in_order(marks))


def news(studio: "Studio", run_id: str, x: Axis, after: int) -> Window:
    """What came after the cursor `after`, point by point."""
    info = runs.get(studio, run_id)
    metrics, evals, cursor, restarted = _tables(studio, info.id)
    new = [_behind(table, after) for table in (metrics, evals)]
    again = restarted > after or max(len(metrics) - new[0], len(evals) - new[1]) > _MOST_NEW
    lines: dict[str, Line] = {}
    marks: list[Mark] = []
    if cursor > after and not again:
        axis = _Axis(x, metrics, info.started)
        xs, eval_xs = axis.of(metrics)[new[0] :], axis.of(evals)[new[1] :]
        lines = {name: _raw(xs, metrics[name][new[0] :]) for name in METRICS}
        lines |= {name: _raw(eval_xs, evals[column][new[1] :]) for name, column in EVALS.items()}
        marks = _marks(studio, info.id, axis, (after, cursor))
        marks += _eval_marks(eval_xs, evals["step"][new[1] :], evals["eval_loss"][new[1] :])
    return Window(info.id, cursor, not info.final, again, len(metrics), 0, (0.0, 0.0), lines, _in_order(marks))


class _Axis:
    """Steps to x. What a point lacks of an axis (an evaluation counts no tokens) is read between its neighbours."""

    def __init__(self, name: Axis, metrics: Table, started: float | None) -> None:
        self.name, self.steps, self._metrics = name, metrics["step"], metrics
        self.origin = 0.0
        if name == "time" and len(metrics):
            first = float(metrics["time"][0])
            self.origin = first if started is None else min(started, first)
        self.values = self._clean(metrics[name]) if len(metrics) else np.empty(0)

    def of(self, table: Table) -> Array:
        """The x of each point, never falling: clocks may be set back, the order of points is not."""
        if table is self._metrics:
            return self.values
        values = table[self.name]
        if self.name != "step" and not np.isfinite(values).all():
            return self.at(table["step"])
        return self._clean(values)

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
        if self.name == "step" or not len(self.steps):
            return steps
        return np.interp(steps, self.steps, self.values)


def _edges(look: Look) -> tuple[float, float]:
    return -math.inf if look.low is None else look.low, math.inf if look.high is None else look.high


def _line(name: str, x: Array, y: Array, look: Look) -> Line:
    finite = np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    low, high = _edges(look)
    # One neighbour on either side, so that a line runs to the edge of the window.
    first = max(0, int(np.searchsorted(x, low)) - 1)
    last = min(len(x), int(np.searchsorted(x, high, side="right")) + 1)
    width = look.width * _SHARE.get(name, _SMALL)
    most = max(100, 2 * round(width))
    drawn_x, drawn_y = thin(x[first:last], y[first:last], most)
    at, values, state = smoothed(y[:last], look.weight, first, min(most, _SMOOTH_POINTS))
    inside = at >= first
    return Line(drawn_x, drawn_y, x[at[inside]], values[inside], state, last)


def _raw(x: Array, y: Array) -> Line:
    finite = np.isfinite(y)
    none = np.empty(0)
    return Line(x[finite], y[finite], none, none, 0.0, 0)


def _behind(table: Table, cursor: int) -> int:
    return int(np.searchsorted(table["seq"], cursor, side="right"))


def _marks(studio: "Studio", run_id: str, axis: _Axis, seqs: tuple[int, int]) -> list[Mark]:
    """What happened on the way behind the first seq and up to the second, but for evaluations."""
    marks = []
    after, last = seqs
    for event in rows.events_after(studio.database, run_id, after, _MARKS):
        kind = event.kind if event.kind != "state" else str(event.payload.get("state"))
        if event.seq > last or (event.kind == "state" and kind != "stopping"):
            continue
        marks.append(Mark(0.0, event.step or 0, kind, _text(kind, event.step or 0, event.payload)))
    xs = axis.at(np.array([mark.step for mark in marks], dtype=np.float64))
    return [Mark(x, mark.step, mark.kind, mark.text) for x, mark in zip(xs.tolist(), marks, strict=True)]


def _eval_marks(xs: Array, steps: Array, losses: Array) -> list[Mark]:
    """A mark an evaluation, or where there are more than sixty, one of several neighbours."""
    size = max(1, math.ceil(len(xs) / _MOST_MARKS))
    found = []
    for start in range(0, len(xs), size):
        first, count = int(steps[start]), min(size, len(xs) - start)
        loss = float(losses[start])
        if count > 1:
            text = f"{count} evaluations, steps {first:,} to {int(steps[start + count - 1]):,}"
        else:
            text = f"evaluation loss {loss:.4f}" if math.isfinite(loss) else "evaluation without a finite loss"
        found.append(Mark(float(xs[start]), first, "eval", text, count))
    return found


def _text(kind: str, step: int, payload: dict[str, Any]) -> str:
    told = str(payload.get("text") or payload.get("message") or "").strip()
    if told:
        return told[:300]
    words = {"checkpoint": "checkpoint saved", "sample": "sample answers", "stopping": "asked to stop"}
    return words.get(kind) or (f"resumed from step {step}" if kind == "resumed" else kind)


def _grouped(marks: list[Mark]) -> list[Mark]:
    """At most sixty of a kind: where there are more, neighbours become one mark that says how many they are."""
    found: list[Mark] = []
    for kind in dict.fromkeys(mark.kind for mark in marks):
        alike = [mark for mark in marks if mark.kind == kind]
        size = math.ceil(len(alike) / _MOST_MARKS)
        for start in range(0, len(alike), size):
            group = alike[start : start + size]
            first, last = group[0], group[-1]
            if len(group) > 1:
                text = f"{len(group)} {_PLURAL[kind]}, steps {first.step:,} to {last.step:,}"
                first = Mark(first.x, first.step, kind, text, len(group))
            found.append(first)
    return found


def _in_order(marks: list[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda mark: (mark.x, mark.kind))


def verdict(studio: "Studio", run_id: str) -> Verdict:
    """What a run's curves say, in plain words: see verdicts.py."""
    info = runs.get(studio, run_id)
    metrics, evals, _, _ = _tables(studio, info.id)
    folder = studio.run_dir(info.id).checkpoints
    saved = [int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return judge(
        Curve(
            metrics["step"], metrics["loss"], evals["step"], evals["eval_loss"], metrics["learning_rate"],
            checkpoints=tuple(sorted(saved)), over=info.final,
        )
    )  # fmt: skip


def csv(studio: "Studio", run_id: str) -> Iterator[str]:
    """All points of a run as lines of CSV, exactly as logged; an empty cell where there is no value."""
    info = runs.get(studio, run_id)
    metrics, evals, _, _ = _tables(studio, info.id)

    def lines() -> Iterator[str]:
        yield ",".join(("kind", *COLUMNS)) + "\r\n"
        kinds = np.array(["metric"] * len(metrics) + ["eval"] * len(evals))
        columns = [np.concatenate((metrics[name], evals[name])) for name in COLUMNS]
        order = np.argsort(columns[0], kind="stable")
        for start in range(0, len(order), 2000):
            some = order[start : start + 2000]
            cells = [kinds[some].tolist()]
            cells += [_cells(name, column[some]) for name, column in zip(COLUMNS, columns, strict=True)]
            yield "".join(",".join(row) + "\r\n" for row in zip(*cells, strict=True))

    return lines()


def _cells(name: str, values: Array) -> list[str]:
    if name in _WHOLE:
        return ["" if value != value else str(int(value)) for value in values.tolist()]
    return ["" if value != value else repr(value) for value in values.tolist()]
