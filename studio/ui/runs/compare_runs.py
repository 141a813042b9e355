"""Several runs compared: which ones, and the table of their differences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studio.services.core.studio import Studio
from studio.services.runs.recipe_diff import Column, differences
from studio.services.runs.runs import RunInfo
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc
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
    if not columns:
        return markup.heading("What differs", "Nothing: these runs have the same recipe and the same results.")
    pinned = next((at for at, run in enumerate(runs) if run.id == order.get("pin")), 0)
    rest = _sorted([at for at in range(len(runs)) if at != pinned], columns, order, runs)
    heads = [_head(name, label, numeric, order) for name, label, numeric in _heads(columns)]
    body = "".join(_row(runs[at], at, pinned, columns) for at in [pinned, *rest])
    return (
        f"{markup.heading('What differs', 'Small figures: the difference from the baseline, the first row.')}"
        f'<div class="scroll"><table class="table differ" aria-label="What differs between the runs"><thead><tr>'
        f'<th scope="col">Baseline</th>{"".join(heads)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _heads(columns: Sequence[Column]) -> list[tuple[str, str, bool]]:
    return [("name", "Run", False), *((column.name, column.label, column.form != "text") for column in columns)]


def _head(name: str, label: str, numeric: bool, order: Mapping[str, Any]) -> str:
    sorted_by = order.get("sort") == name
    arrow = ("", " ▲", " ▼")[0 if not sorted_by else 2 if order.get("down") else 1]
    aria_sort = f' aria-sort="{"descending" if order.get("down") else "ascending"}"' if sorted_by else ""
    return (
        f'<th scope="col"{" class=num" if numeric else ""}{aria_sort}><button type="button" class="link" data-pick '
        f'data-sort="{esc(name)}">{esc(label)}{arrow}</button></th>'
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


def _row(run: RunInfo, at: int, pinned: int, columns: Sequence[Column]) -> str:
    pressed = str(at == pinned).lower()
    pin = (
        f'<button type="button" class="pin" data-pick data-pin="{esc(run.id)}" aria-pressed="{pressed}" '
        f'aria-label="{esc(run.name)} as the baseline">{"pinned" if at == pinned else "pin"}</button>'
    )
    cells = "".join(_cell(column, at, pinned) for column in columns)
    return f"<tr{' class=pinned' if at == pinned else ''}><td>{pin}</td><td>{esc(run.name)}</td>{cells}</tr>"


def _cell(column: Column, at: int, pinned: int) -> str:
    value, base = column.values[at], column.values[pinned]
    if column.form == "text":
        return f"<td>{esc(_word(column, value))}</td>"
    delta = "" if at == pinned or value is None or base is None or value == base else _delta(column, value - base)
    return f'<td class="num">{esc(_shown(column, value))}{delta}</td>'


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
    return f"<small>{'+' if difference > 0 else '−'}{esc(_shown(column, abs(difference)))}</small>"
