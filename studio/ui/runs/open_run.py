"""What the Runs page shows of the open run, part by part: for Gradio when it opens, for the pulse afterwards."""

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

# Worked out from all points or recipes: told again while they were made a moment ago.
SLOW = frozenset({"run-verdict", "differ"})


def find(studio: Studio, chosen: str) -> RunInfo | None:
    """The chosen run, also from the trash; without one, the newest."""
    with contextlib.suppress(NotFound):
        return runs.get(studio, chosen)
    return runs.newest(studio)


def compared_runs(studio: Studio, info: RunInfo, others: Sequence[str]) -> list[RunInfo]:
    """The open run and those drawn beside it that are there and not in the trash."""
    found = []
    for one in others:
        with contextlib.suppress(NotFound):
            found.append(runs.get(studio, one))
    return compare_runs.compared_runs([one for one in found if one.trashed is None], info, others)


def parts(
    studio: Studio, info: RunInfo, drawn: Sequence[RunInfo], order: Mapping[str, Any]
) -> dict[str, Callable[[], str]]:
    """The parts by the id of their place; each is made when it is called for."""
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
