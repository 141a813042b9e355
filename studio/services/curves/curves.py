"""Curves: what a page draws of a run's points, for the window and the width it shows; and all points as CSV."""

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
# Loss fills the page's width, the others share it: px of a line per px of the page.
_SHARE = {"loss": 1.0, "eval_loss": 1.0}
_SMALL = 0.33
_TOGETHER = 1.1
_SMOOTH_POINTS = 400
_FEWEST = 60
_MOST_NEW = 2000  # new points from which drawing anew is cheaper than adding
_MOST_MARKS = 60  # of a kind
_MARKS = ("checkpoint", "note", "state", "sample", "resumed")
_PLURAL = {"checkpoint": "checkpoints", "note": "notes", "sample": "samples",
           "resumed": "resumes", "stopping": "stops"}  # fmt: skip
_WHOLE = ("seq", "step", "tokens", "memory")


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
class WindowRequest:
    """What a page asks for: the axis, the window on it (None: to the end), its width in pixels, the smoothing.

    log: the axis is logarithmic, so that what is not above zero has no place on it.
    """

    x: AxisName = "step"
    low: float | None = None
    high: float | None = None
    width: int = 1000
    weight: float = 0.0
    runs: int = 1  # drawn together: they share what one has alone
    log: bool = False

    def points(self, line: str) -> tuple[int, int]:
        """How many points are sent of a line: two a pixel as logged, fewer where many runs' lines lie over each other;
        and how many smoothed ones."""
        most = round(2 * self.width * _SHARE.get(line, _SMALL) / max(1.0, self.runs * _TOGETHER))
        return max(_FEWEST, most), max(_FEWEST, min(most, _SMOOTH_POINTS if self.runs < 3 else _SMOOTH_POINTS // 3))

    @classmethod
    def parse(
        cls, x: str, low: float | None, high: float | None, width: int, weight: float, runs: int = 1,
        log: bool = False,
    ) -> "WindowRequest":  # fmt: skip
        """A look from outside; raises BadInput when it makes no sense."""
        if x not in AXES:
            raise BadInput(f"The x axis is one of {', '.join(AXES)}, not {x!r}.")
        if not 0 <= weight < 1:
            raise BadInput("The smoothing weight is at least 0 and below 1.")
        if any(edge is not None and not math.isfinite(edge) for edge in (low, high)):
            raise BadInput("The edges of a window are finite numbers.")
        return cls(x, low, high, max(50, min(width, WIDEST)), weight, runs, log)


def _tables(studio: Studio, run_id: str) -> tuple[Table, Table, int, int]:
    """Metric points, evaluation points, the cursor behind them, and the seq of the newest resume."""
    # Read before the points: all points up to here are in, and with those beyond it the marks that came before them.
    known = rows.last_seq(studio.database, run_id)
    metrics, evals, cursor, restarted = _shelf(studio).tables(run_id)
    return metrics, evals, max(known, cursor), restarted


def _shelf(studio: Studio) -> ColumnCache:
    return studio.state(ColumnCache, lambda: ColumnCache(studio.database))


def _sound(studio: Studio, run_id: str, ask: Callable[[], T]) -> T:
    """What `ask` says; when a file of points turns out to be damaged, it is built again first."""
    try:
        return ask()
    except Damaged:
        _shelf(studio).forget(run_id)
        return ask()


def window(studio: Studio, run_id: str, look: WindowRequest) -> Window:
    """A run's curves in a window: every extreme that can be seen there, and the marks."""
    info = runs.get(studio, run_id)
    return _sound(studio, info.id, lambda: _window(studio, info, look))


def _window(studio: Studio, info: runs.RunInfo, look: WindowRequest) -> Window:
    metrics, evals, cursor, _ = _tables(studio, info.id)
    axis = Axis(look.x, metrics, info.started)
    xs, eval_xs = axis.of(metrics), axis.of(evals)
    edges = _edges(look)
    found = {name: line(metrics, name, xs, edges, look.weight, look.points(name), look.log) for name in METRICS}
    found |= {
        name: line(evals, column, eval_xs, edges, look.weight, look.points(name), look.log)
        for name, column in EVALS.items()
    }
    marks = _grouped([mark for mark in _marks(studio, info.id, axis, (0, cursor)) if edges[0] <= mark.x <= edges[1]])
    marks += _eval_marks(evals, eval_xs, (eval_xs.search(edges[0], False), eval_xs.search(edges[1], True)))
    tables = ((xs, metrics), (eval_xs, evals))
    ends = [where.take(np.array([0, len(table) - 1])) for where, table in tables if len(table)]
    extent = (float(np.min(ends)), float(np.max(ends))) if ends else (0.0, 0.0)
    lost = len(metrics) - _finite(metrics, "loss")
    return Window(info.id, cursor, not info.final, False, len(metrics), lost, extent, found, _in_order(marks))


def _finite(table: Table, name: str) -> int:
    told = table.extremes(name)
    return int(np.isfinite(table[name]).sum()) if told is None else told.finite


def news(studio: Studio, run_id: str, x: AxisName, after: int) -> Window:
    """What came after the cursor `after`, point by point."""
    return news_of(studio, runs.get(studio, run_id), x, after)


def news_of(studio: Studio, info: runs.RunInfo, x: AxisName, after: int) -> Window:
    """As `news`, of a run that is at hand."""
    return _sound(studio, info.id, lambda: _news(studio, info, x, after))


def _news(studio: Studio, info: runs.RunInfo, x: AxisName, after: int) -> Window:
    metrics, evals, cursor, restarted = _tables(studio, info.id)
    new = [_behind(table, after) for table in (metrics, evals)]
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
    none = np.empty(0)
    return Line(places.part(first, len(table))[finite], values[finite], none, none, 0.0, 0)


def _behind(table: Table, cursor: int) -> int:
    """The first row behind a cursor."""
    told = table.extremes("seq")
    if told is not None and told.rises:
        return int(below(table, "seq", told, np.array([float(cursor)]), True)[0])
    return int(np.searchsorted(table["seq"], cursor, side="right"))


def _marks(studio: Studio, run_id: str, axis: Axis, seqs: tuple[int, int]) -> list[Mark]:
    """What happened on the way behind the first seq and up to the second, but for evaluations."""
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
    """A mark an evaluation of the rows in sight, or where there are more than sixty, one of several neighbours."""
    first, last = window
    if last <= first:
        return []
    size = max(1, math.ceil((last - first) / _MOST_MARKS))
    begins = np.arange(first, last, size)
    ends = np.minimum(begins + size, last) - 1
    steps, until, losses = evals.take("step", begins), evals.take("step", ends), evals.take("eval_loss", begins)
    found = []
    for row, x in enumerate(places.take(begins).tolist()):
        step, count, loss = int(steps[row]), int(ends[row] - begins[row]) + 1, float(losses[row])
        if count > 1:
            text = f"{count} evaluations, steps {step:,} to {int(until[row]):,}"
        else:
            text = f"evaluation loss {loss:.4f}" if math.isfinite(loss) else "evaluation without a finite loss"
        found.append(Mark(x, step, "eval", text, count))
    return found


def _text(studio: Studio, kind: str, step: int, payload: dict[str, Any]) -> str:
    told = str(payload.get("text") or payload.get("message") or "").strip()
    if told:
        return access.for_reader(studio, told)[:300]  # before it is cut: half a folder would stay
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


def verdict(studio: Studio, run_id: str) -> Verdict:
    """What a run's curves say, in plain words: see diagnosis.py."""
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
    """All points of a run as lines of CSV, exactly as logged; an empty cell where there is no value."""
    kinds, columns = everything(studio, run_id)

    def lines() -> Iterator[str]:
        yield ",".join(("kind", *COLUMNS)) + "\r\n"
        order = np.argsort(columns[0], kind="stable")
        for start in range(0, len(order), 2000):
            some = order[start : start + 2000]
            cells = [kinds[some].tolist()]
            cells += [_cells(name, column[some]) for name, column in zip(COLUMNS, columns, strict=True)]
            yield "".join(",".join(row) + "\r\n" for row in zip(*cells, strict=True))

    return lines()


def everything(studio: Studio, run_id: str) -> tuple[NDArray[np.str_], list[Array]]:
    """All points of a run: whether each is a "metric" or an "eval", and its COLUMNS, nan where there is no value."""
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
