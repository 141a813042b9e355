"""The parts of the Runs page that show the open run: rendered by Gradio when it opens, by the pulse afterwards."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studio.errors import NotFound
from studio.services.core.studio import Studio
from studio.services.runs import history, runs
from studio.services.runs.runs import RunInfo
from studio.ui.parts import markup
from studio.ui.runs import compare_runs, curves_view
from studio.ui.runs import story as run_story
from studio.ui.runs import view as runs_view

# Computed from all points or recipes, so a recent result is reused.
SLOW = frozenset({"run-verdict", "differ"})


def find(studio: Studio, chosen: str) -> RunInfo | None:
    """The chosen run, even from the trash; if there is none, the newest run."""
    with contextlib.suppress(NotFound):
        return runs.get(studio, chosen)
    return runs.newest(studio)


def compared_runs(studio: Studio, info: RunInfo, others: Sequence[str]) -> list[RunInfo]:
    """The open run and the runs selected for comparison that exist and are not in the trash."""
    infos = []
    for run_id in others:
        with contextlib.suppress(NotFound):
            infos.append(runs.get(studio, run_id))
    return compare_runs.compared_runs([item for item in infos if item.trashed is None], info, others)


def parts(
    studio: Studio, info: RunInfo, drawn: Sequence[RunInfo], order: Mapping[str, Any]
) -> dict[str, Callable[[], str]]:
    """The parts by the id of their place, as functions that render them."""
    return {
        "run-head": lambda: runs_view.head(info),
        "run-about": lambda: runs_view.about(info),
        "run-verdict": lambda: curves_view.verdict(studio, info),
        "differ": lambda: compare_runs.table(studio, drawn, order),
        "run-samples": lambda: run_story.samples(history.samples_of(studio, info)),
        "run-log": lambda: _log(studio, info),
    }


def _log(studio: Studio, run: RunInfo) -> str:
    text = runs.log_tail(studio, run.id)
    return markup.code(text, "the log") if text else markup.note("Nothing has been logged yet.")
