"""The data around the curves: which runs to draw, and the verdict in words."""

import json
from collections.abc import Sequence

from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.curves.diagnosis import Kind
from studio.services.runs.runs import RunInfo
from studio.ui.parts.templates import render

_MARKS: dict[Kind, tuple[str, str]] = {
    "short": ("queued", "too short to tell"),
    "learning": ("good", "learning"),
    "plateau": ("stopping", "plateaued"),
    "overfitting": ("warn", "overfitting"),
    "diverged": ("bad", "diverged"),
    "too_high": ("bad", "learning rate too high"),
    "too_low": ("warn", "learning rate too low"),
}


def runs_to_draw(together: Sequence[RunInfo]) -> str:
    """The runs to draw, the open one first, for static/curves.js, which requests their points itself."""
    return json.dumps({"runs": [{"id": run.id, "name": run.name, "live": not run.final} for run in together]})


def verdict(studio: Studio, run: RunInfo) -> str:
    """The verdict on a run with its evidence; empty before there are points."""
    result = curves.verdict(studio, run.id)
    if run.step == 0 and result.kind == "short":
        return ""
    state, word = _MARKS[result.kind]
    return render("runs/verdict.html", verdict=result, state=state, word=word)


def word(kind: Kind) -> str:
    """A verdict in two or three words."""
    return _MARKS[kind][1]
