"""Curves of a run: downsampled lines and marks for the window and width of a page, and all points as CSV."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from studio.errors import BadInput
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.curves.diagnosis import Curve, Verdict, judge
from studio.services.curves.downsample import Array
from studio.services.curves.series import AXES, Axis, AxisName, Line, Places, below, line
from studio.services.runs import runs
from studio.store import runs as rows
from studio.store.series.columns import COLUMNS, ColumnCache, Damaged, Table

T = TypeVar("T")

METRICS = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "step_seconds", "memory", "token_accuracy")
EVALS = {"eval_loss": "eval_loss", "eval_token_accuracy": "token_accuracy"}
WIDEST = 2000  # pixels
# Width of a figure as a share of the page: loss figures span the page, the others share a row.
_SHARE = {"loss": 1.0, "eval_loss": 1.0}
_SMALL = 0.33
_TOGETHER = 1.1
_SMOOTH_POINTS = 400
_FEWEST = 60
_MOST_NEW = 2000  # with more new points than this, redrawing is cheaper than appending
_MOST_MARKS = 60  # of a kind
_MARKS = ("checkpoint", "note", "state", "sample", "resumed")
_PLURAL = {"checkpoint": "checkpoints", "note": "notes", "sample": "samples",
           "resumed": "resumes", "stopping": "stops"}  # fmt: skip
_WHOLE = ("seq", "step", "tokens", "memory")


@dataclass(frozen=True, slots=True)
class Mark:
    """An event at a step. count: how many events of this kind are merged into the mark, being too close together."""

    x: float
    step: int
    kind: str
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """The curves of a run in a window. again: the new points cannot be appended; request the whole window."""

    run: str
    cursor: int
    live: bool
    again: bool
    points: int
    lost: int  # points whose loss is not finite
    extent: tuple[float, float]  # lowest and highest x of the whole run
    lines: dict[str, Line]
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """A request for curves: the axis, the window on it (None: to the end), its width in pixels and the smoothing.

    log: the x axis is logarithmic; points that are not above zero are left out.
    """

    x: AxisName = "step"
    low: float | None = None
    high: float | None = None
    width: int = 1000
    weight: float = 0.0
    runs: int = 1  # number of runs drawn together, which share the point budget of one
    log: bool = False

    def points(self, line: str) -> tuple[int, int]:
        """The maximum numbers of logged and of smoothed points sent for a line.

        Two logged points per pixel, fewer where the lines of several runs overlap.
        """
        most = round(2 * self.width * _SHARE.get(line, _SMALL) / max(1.0, self.runs * _TOGETHER))
        return max(_FEWEST, most), max(_FEWEST, min(most, _SMOOTH_POINTS if self.runs < 3 else _SMOOTH_POINTS // 3))

    @classmethod
    def parse(
        cls, x: str, low: float | None, high: float | None, width: int, weight: float, runs: int = 1,
        log: bool = False,
    ) -> "WindowRequest":  # fmt: skip
        """A request from outside the services; raises BadInput for invalid values."""
        if x not in AXES:
            raise BadInput(f"The x axis must be one of {', '.join(AXES)}, not {x!r}.")
        if not 0 <= weight < 1:
            raise BadInput("The smoothing weight must be at least 0 and below 1.")
        if any(edge is not None and not math.isfinite(edge) for edge in (low, high)):
            raise BadInput("The edges of a window must be finite numbers.")
        return cls(x, low, high, max(50, min(width, WIDEST)), weight, runs, log)


def _tables(studio: Studio, run_id: str) -> tuple[Table, Table, int, int]:
    """Metric points, evaluation points, the cursor after them, and the seq of the newest resume."""
    # Read before the points, so that no point or mark up to this seq is missed by the cursor.
    known = rows.last_seq(studio.database, run_id)
    metrics, evals, cursor, restarted = _shelf(studio).tables(run_id)
    return metrics, evals, max(known, cursor), restarted


def _shelf(studio: Studio) -> ColumnCache:
    return studio.state(ColumnCache, lambda: ColumnCache(studio.database))


def _sound(studio: Studio, run_id: str, ask: Callable[[], T]) -> T:
    """The result of `ask`; if a file of points is damaged, it is rebuilt and `ask` repeated."""
    try:
        return ask()
    except Damaged:
        _shelf(studio).forget(run_id)
        return ask()


def window(studio: Studio, run_id: str, look: WindowRequest) -> Window:
    """A run's curves in a window, with every extreme visible there, and its marks."""
    info = runs.get(studio, run_id)
    return _sound(studio, info.id, lambda: _window(studio, info, look))


def _window(studio: Studio, info: runs.RunInfo, look: WindowRequest) -> Window:
    metrics, evals, cursor, _ = _tables(studio, info.id)
    axis = Axis(look.x, metrics, info.started)
    xs, eval_xs = axis.of(metrics), axis.of(evals)
    edges = _edges(look)
    lines = {name: line(metrics, name, xs, edges, look.weight, look.points(name), look.log) for name in METRICS}
    lines |= {
        name: line(evals, column, eval_xs, edges, look.weight, look.points(name), look.log)
        for name, column in EVALS.items()
    }
    marks = _grouped([mark for mark in _marks(studio, info.id, axis, (0, cursor)) if edges[0] <= mark.x <= edges[1]])
    marks += _eval_marks(evals, eval_xs, (eval_xs.search(edges[0], False), eval_xs.search(edges[1], True)))
    tables = ((xs, metrics), (eval_xs, evals))
    outer = [where.take(np.array([0, len(table) - 1])) for where, table in tables if len(table)]
    extent = (float(np.min(outer)), float(np.max(outer))) if outer else (0.0, 0.0)
    lost = len(metrics) - _finite(metrics, "loss")
    return Window(info.id, cursor, not info.final, False, len(metrics), lost, extent, lines, _in_order(marks))


def _finite(table: Table, name: str) -> int:
    extremes = table.extremes(name)
    return int(np.isfinite(table[name]).sum()) if extremes is None else extremes.finite


def news(studio: Studio, run_id: str, x: AxisName, after: int) -> Window:
    """All points and marks after the cursor `after`, not downsampled."""
    return news_of(studio, runs.get(studio, run_id), x, after)


def news_of(studio: Studio, info: runs.RunInfo, x: AxisName, after: int) -> Window:
    """Same as `news`, for a run already loaded."""
    return _sound(studio, info.id, lambda: _news(studio, info, x, after))


def _news(studio: Studio, info: runs.RunInfo, x: AxisName, after: int) -> Window:
    metrics, evals, cursor, restarted = _tables(studio, info.id)
    new = [_first_after(table, after) for table in (metrics, evals)]
    again = restarted > after or max(len(metrics) - new[0], len(evals) - new[1]) > _MOST_NEW
    lines: dict[str, Line] = {}
    marks: list[Mark] = []
    if cursor > after and not again:
        axis = Axis(x, metrics, info.started)
        eval_xs = axis.of(evals)
        lines = {name: _raw(metrics, name, axis.of(metrics), new[0]) for name in METRICS}
        lines |= {name: _raw(evals, column, eval_xs, new[1]) for name, column in EVALS.items()}
        marks = _marks(studio, info.id, axis, (after, cursor))
        marks += _eval_marks(evals, eval_xs, (new[1], len(evals)))
    return Window(info.id, cursor, not info.final, again, len(metrics), 0, (0.0, 0.0), lines, _in_order(marks))


def _edges(look: WindowRequest) -> tuple[float, float]:
    return -math.inf if look.low is None else look.low, math.inf if look.high is None else look.high


def _raw(table: Table, name: str, places: Places, first: int) -> Line:
    values = table.part(name, first, len(table))
    finite = np.isfinite(values)
    empty = np.empty(0)
    return Line(places.part(first, len(table))[finite], values[finite], empty, empty, 0.0, 0)


def _first_after(table: Table, cursor: int) -> int:
    """The first row after a cursor."""
    extremes = table.extremes("seq")
    if extremes is not None and extremes.rises:
        return int(below(table, "seq", extremes, np.array([float(cursor)]), True)[0])
    return int(np.searchsorted(table["seq"], cursor, side="right"))


def _marks(studio: Studio, run_id: str, axis: Axis, seqs: tuple[int, int]) -> list[Mark]:
    """Marks of the events after the first seq and up to the second, without evaluations."""
    marks = []
    after, last = seqs
    for event in rows.events_after(studio.database, run_id, after, _MARKS):
        kind = event.kind if event.kind != "state" else str(event.payload.get("state"))
        if event.seq > last or (event.kind == "state" and kind != "stopping"):
            continue
        marks.append(Mark(0.0, event.step or 0, kind, _text(studio, kind, event.step or 0, event.payload)))
    xs = axis.at(np.array([mark.step for mark in marks], dtype=np.float64))
    return [Mark(x, mark.step, mark.kind, mark.text) for x, mark in zip(xs.tolist(), marks, strict=True)]


def _eval_marks(evals: Table, places: Places, window: tuple[int, int]) -> list[Mark]:
    """One mark per evaluation in the visible rows; with more than sixty, neighbours are merged."""
    first, last = window
    if last <= first:
        return []
    size = max(1, math.ceil((last - first) / _MOST_MARKS))
    starts = np.arange(first, last, size)
    ends = np.minimum(starts + size, last) - 1
    steps, last_steps, losses = evals.take("step", starts), evals.take("step", ends), evals.take("eval_loss", starts)
    marks = []
    for row, x in enumerate(places.take(starts).tolist()):
        step, count, loss = int(steps[row]), int(ends[row] - starts[row]) + 1, float(losses[row])
        if count > 1:
            text = f"{count} evaluations, steps {step:,} to {int(last_steps[row]):,}"
        else:
            text = f"evaluation loss {loss:.4f}" if math.isfinite(loss) else "evaluation without a finite loss"
        marks.append(Mark(x, step, "eval", text, count))
    return marks


def _text(studio: Studio, kind: str, step: int, payload: dict[str, Any]) -> str:
    text = str(payload.get("text") or payload.get("message") or "").strip()
    if text:
        return access.for_reader(studio, text)[:300]  # before truncation, which could leave half of a path
    words = {"checkpoint": "checkpoint saved", "sample": "sample answers", "stopping": "asked to stop"}
    return words.get(kind) or (f"resumed from step {step}" if kind == "resumed" else kind)


def _grouped(marks: list[Mark]) -> list[Mark]:
    """At most sixty marks of a kind: with more, neighbours are merged into one mark with their count."""
    grouped: list[Mark] = []
    for kind in dict.fromkeys(mark.kind for mark in marks):
        same_kind = [mark for mark in marks if mark.kind == kind]
        size = math.ceil(len(same_kind) / _MOST_MARKS)
        for start in range(0, len(same_kind), size):
            group = same_kind[start : start + size]
            first, last = group[0], group[-1]
            if len(group) > 1:
                text = f"{len(group)} {_PLURAL[kind]}, steps {first.step:,} to {last.step:,}"
                first = Mark(first.x, first.step, kind, text, len(group))
            grouped.append(first)
    return grouped


def _in_order(marks: list[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda mark: (mark.x, mark.kind))


def verdict(studio: Studio, run_id: str) -> Verdict:
    """The verdict on a run's curves: see diagnosis.py."""
    info = runs.get(studio, run_id)
    return _sound(studio, info.id, lambda: _verdict(studio, info))


def _verdict(studio: Studio, info: runs.RunInfo) -> Verdict:
    metrics, evals, _, _ = _tables(studio, info.id)
    folder = studio.run_dir(info.id).checkpoints
    saved = [int(path.name[5:]) for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return judge(
        Curve(
            metrics["step"], metrics["loss"], evals["step"], evals["eval_loss"], metrics["learning_rate"],
            checkpoints=tuple(sorted(saved)), over=info.final,
        )
    )  # fmt: skip


def csv(studio: Studio, run_id: str) -> Iterator[str]:
    """All points of a run as CSV lines, exactly as logged; cells without a value are empty."""
    kinds, columns = everything(studio, run_id)

    def lines() -> Iterator[str]:
        yield ",".join(("kind", *COLUMNS)) + "\r\n"
        order = np.argsort(columns[0], kind="stable")
        for start in range(0, len(order), 2000):
            chunk = order[start : start + 2000]
            cells = [kinds[chunk].tolist()]
            cells += [_cells(name, column[chunk]) for name, column in zip(COLUMNS, columns, strict=True)]
            yield "".join(",".join(row) + "\r\n" for row in zip(*cells, strict=True))

    return lines()


def everything(studio: Studio, run_id: str) -> tuple[NDArray[np.str_], list[Array]]:
    """All points of a run: the kind of each ("metric" or "eval"), and its COLUMNS, nan where there is no value."""
    info = runs.get(studio, run_id)
    return _sound(studio, info.id, lambda: _everything(studio, info.id))


def _everything(studio: Studio, run_id: str) -> tuple[NDArray[np.str_], list[Array]]:
    metrics, evals, _, _ = _tables(studio, run_id)
    kinds = np.array(["metric"] * len(metrics) + ["eval"] * len(evals))
    return kinds, [np.concatenate((metrics[name], evals[name])) for name in COLUMNS]


def _cells(name: str, values: Array) -> list[str]:
    if name in _WHOLE:
        return ["" if value != value else str(int(value)) for value in values.tolist()]
    return ["" if value != value else repr(value) for value in values.tolist()]
