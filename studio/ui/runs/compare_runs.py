"""Several runs compared: which ones, and the table of their differences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studio.services.core.studio import Studio
from studio.services.runs.recipe_diff import Column, differences
from studio.services.runs.runs import RunInfo
from studio.ui.parts import units
from studio.ui.parts.templates import render
from studio.ui.runs import curves_view
from studio.ui.runs.view import MOST_TOGETHER

_FORMS: dict[str, Callable[[Any], str]] = {"loss": units.figure, "bytes": units.size, "seconds": units.clock}


def compared_runs(infos: Sequence[RunInfo], info: RunInfo, others: Sequence[str]) -> list[RunInfo]:
    """The open run and the runs selected for comparison, at most eight, in the order they were selected."""
    by_id = {run.id: run for run in infos}
    chosen = [by_id[run_id] for run_id in dict.fromkeys(others) if run_id in by_id and run_id != info.id]
    return [info, *chosen[: MOST_TOGETHER - 1]]


def sort_order(order: Mapping[str, Any], click: Mapping[str, Any]) -> dict[str, Any]:
    """The order after a click on a column header or a pin."""
    if "pin" in click:
        return {**order, "pin": click["pin"]}
    column = click.get("sort", "")
    return {**order, "sort": column, "down": order.get("sort") == column and not order.get("down", False)}


def table(studio: Studio, runs: Sequence[RunInfo], order: Mapping[str, Any]) -> str:
    """One row per run and one column per difference; the pinned run first, the others with their distance from it."""
    if len(runs) < 2:
        return ""
    columns = differences(studio, runs)
    pinned = next((at for at, run in enumerate(runs) if run.id == order.get("pin")), 0)
    rest = _sorted([at for at in range(len(runs)) if at != pinned], columns, order, runs)
    return render(
        "runs/differ.html",
        columns=columns,
        sort=order.get("sort", ""),
        direction="descending" if order.get("down") else "ascending",
        rows=[(runs[at], [_cell(column, at, pinned) for column in columns]) for at in [pinned, *rest]],
    )


def _sorted(rows: list[int], columns: Sequence[Column], order: Mapping[str, Any], runs: Sequence[RunInfo]) -> list[int]:
    """Rows sorted by the chosen column; rows without a value last in either direction."""
    values = next((column.values for column in columns if column.name == order.get("sort")), None)
    if order.get("sort") == "name":
        values = tuple(run.name for run in runs)
    if values is None:
        return rows
    numbers = all(value is None or isinstance(value, (int, float)) for value in values)
    present = [at for at in rows if values[at] is not None]
    present.sort(key=lambda at: values[at] if numbers else str(values[at]), reverse=bool(order.get("down")))
    return present + [at for at in rows if values[at] is None]


def _cell(column: Column, at: int, pinned: int) -> tuple[str, str]:
    """A value as text, and its difference from the baseline's, empty if there is none to show."""
    value, base = column.values[at], column.values[pinned]
    if column.form == "text":
        return _word(column, value), ""
    if at == pinned or value is None or base is None or value == base:
        return _shown(column, value), ""
    return _shown(column, value), _delta(column, value - base)


def _word(column: Column, value: Any) -> str:
    if value is None or value == "":
        return "–"
    if column.name == "result.verdict":
        return curves_view.word(value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _shown(column: Column, value: Any) -> str:
    if value is None:
        return "–"
    if column.form in _FORMS:
        return _FORMS[column.form](value)
    return f"{value:,.0f}" if column.form == "count" else f"{value:g}"


def _delta(column: Column, difference: float) -> str:
    if _shown(column, abs(difference)) == _shown(column, 0):
        return ""  # equal at the displayed precision
    return f"{'+' if difference > 0 else '−'}{_shown(column, abs(difference))}"
