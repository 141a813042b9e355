"""What is sent to the curves: only points after a cursor, as columns, thinned when there are more than can be seen."""

import json
import math
from collections.abc import Sequence
from typing import Any

from studio.services.runs import Points, RunInfo

MOST = 4000
SERIES = ("step", "loss", "learning_rate", "grad_norm", "tokens_per_s", "memory")


def delta(run: RunInfo, found: Points, after: int) -> str:
    """The points that came after cursor `after`, for static/curves.js; `after` 0 starts the curves anew."""
    metrics = thin(found.metrics)
    return json.dumps(
        {
            "run": run.id,
            "name": run.name,
            "from": after,
            "after": found.after,
            "total": run.total_steps,
            "metrics": {name: [_finite(point.get(name)) for point in metrics] for name in SERIES},
            "evals": [[point["step"], _finite(point.get("eval_loss"))] for point in found.evals],
            "marks": [[mark.get("step") or 0, str(mark.get("text", ""))] for mark in found.marks],
        }
    )


def nothing() -> str:
    """Takes the curves off the page."""
    return json.dumps({"run": "", "name": "", "from": 0, "after": 0, "total": 0})


def thin(points: Sequence[dict[str, Any]], most: int = MOST) -> list[dict[str, Any]]:
    """At most about `most` points. Of each stretch the lowest and highest loss stay, so that no spike is hidden."""
    if len(points) <= most:
        return list(points)
    width = math.ceil(2 * len(points) / most)
    kept: list[dict[str, Any]] = []
    for start in range(0, len(points), width):
        stretch = points[start : start + width]
        extremes = {id(point): point for point in (min(stretch, key=_loss), max(stretch, key=_loss))}
        kept += sorted(extremes.values(), key=lambda point: int(point["step"]))
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


def _loss(point: dict[str, Any]) -> float:
    value = _finite(point.get("loss"))
    return math.inf if value is None else value


def _finite(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
