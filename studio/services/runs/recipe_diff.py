"""Comparison of runs: the results and recipe fields in which they differ."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.errors import StudioError
from studio.recipe import Recipe, all_fields
from studio.rundir import RunDir
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.runs.runs import RunInfo

Form = Literal["text", "number", "loss", "count", "bytes", "seconds"]


@dataclass(frozen=True, slots=True)
class Column:
    """A field or a result: its values in the order of the runs, None where a run has none."""

    name: str
    label: str
    form: Form
    result: bool
    values: tuple[Any, ...]


_RESULTS: tuple[tuple[str, str, Form, Callable[[RunInfo], Any]], ...] = (
    ("state", "State", "text", lambda run: run.state),
    ("step", "Steps done", "count", lambda run: run.step),
    ("loss", "Loss", "loss", lambda run: run.loss),
    ("best_eval", "Best evaluation", "loss", lambda run: run.best_eval),
    ("tokens_per_s", "Tokens/s", "count", lambda run: run.tokens_per_s),
    ("memory", "Peak memory", "bytes", lambda run: run.memory),
    ("took", "Took", "seconds", lambda run: run.ended - run.started if run.ended and run.started else None),
)


def differences(studio: Studio, together: Sequence[RunInfo]) -> list[Column]:
    """Results, then recipe fields, in which the runs differ."""
    recipes = [_recipe(run) for run in together]
    columns = [
        Column(f"result.{name}", label, form, True, tuple(value(run) for run in together))
        for name, label, form, value in _RESULTS
    ]
    columns.insert(
        4, Column("result.verdict", "Verdict", "text", True, tuple(_verdict(studio, run) for run in together))
    )
    columns.append(Column("result.data", "Data", "text", True, tuple(run.dataset for run in together)))
    for info in all_fields():
        if info.name == "dataset":
            continue  # the Data column has its name, which says more than the id
        values = tuple(None if recipe is None else _plain(recipe.get(info.name)) for recipe in recipes)
        number = all(
            value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values
        )
        columns.append(Column(info.name, info.label, "number" if number else "text", False, values))
    return [column for column in columns if any(value != column.values[0] for value in column.values[1:])]


def _recipe(run: RunInfo) -> Recipe | None:
    try:
        return _read(RunDir(Path(run.path)).recipe)
    except (StudioError, OSError):  # the run directory was deleted, but its row is still there
        return None


@functools.lru_cache(maxsize=64)
def _read(path: Path) -> Recipe:
    """Cached: a run's recipe does not change once it is written."""
    return Recipe.load(path)


def _verdict(studio: Studio, run: RunInfo) -> str:
    return curves.verdict(studio, run.id).kind if run.step or run.state in FINAL else "short"


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple, set)) else value
