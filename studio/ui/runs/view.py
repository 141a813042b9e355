"""Runs as HTML: a row of the list, and the open run's state and figures."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from studio.services.core.states import EXPLAINED
from studio.services.runs.runs import RunInfo
from studio.ui.parts import markup
from studio.ui.parts.templates import macro, render
from studio.ui.runs import actions as run_actions

MOST_TOGETHER = 8


def run_list_message(chosen: str, together: Sequence[RunInfo], order: Mapping[str, Any]) -> str:
    """The state that static/runs.js needs, as JSON.

    The open run, the runs drawn with it, how many can be distinguished, the order of the table of differences, and the
    layout key at the time the page was drawn.
    """
    ids = [run.id for run in together]
    state = {"chosen": chosen, "together": ids, "most": MOST_TOGETHER, "order": order, "standing": layout_key(together)}
    return json.dumps(state)


def layout_key(together: Sequence[RunInfo]) -> str:
    """A key of everything that decides which parts and buttons are shown. While it is the same, only text and points
    change.
    """
    if not together:
        return "none"
    open_run, *_ = together
    name = markup.name_of(repr([(run.id, run.name, run.state) for run in together]))
    return " ".join([name, *run_actions.marks(open_run)])


def row(run: RunInfo) -> str:
    """A run in the list; a click opens it, its checkbox adds its curves to those of the open run."""
    return macro("runs/row.html", "row", run, duration(run))


def about(run: RunInfo) -> str:
    """Labels of the open run, and the buttons that change them (static/runs.js)."""
    return render("runs/about.html", run=run)


def duration(run: RunInfo) -> float | None:
    """Seconds since the run started, or its total duration if it ended."""
    return None if run.started is None else (run.ended or time.time()) - run.started


def head(run: RunInfo) -> str:
    """State, progress, figures and message of the open run; `marks` shows the buttons that apply."""
    speed = "–" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}"
    return render(
        "runs/head.html",
        run=run,
        marks=run_actions.marks(run),
        seconds=duration(run),
        speed=speed,
        message=_message(run),
    )


class _Message(NamedTuple):
    """A message about a run. kind: of a note, or problem."""

    kind: str
    text: str
    remedy: str = ""


def _message(run: RunInfo) -> _Message | None:
    if run.trashed is not None:
        return _Message("warn", "This run is in the trash. You can view and restore it.")
    usual = run.message in ("", EXPLAINED[run.state]) and run.state not in ("stalled", "failed", "interrupted")
    if usual and not run.remedy and not run.position:
        return None
    if run.position:
        ahead = run.position - 1
        return _Message("plain", f"Waiting in the queue, {ahead} ahead of it." if ahead else "It will start next.")
    if run.state in ("failed", "interrupted"):
        return _Message("problem", run.message[:1].upper() + run.message[1:], run.remedy)
    return _Message("warn" if run.state == "stalled" else "plain", f"{run.message} {run.remedy}".strip())
