"""`python -m studio.dataset.worker ORDER.json`: dataset tasks in a separate process, with bounded memory.

The order names its task. Progress and result are printed as JSON lines: {"doing", "done", "of"}, then {"report"},
or {"error", "proposals"} for a problem that the user has to fix.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studio.dataset.checking import Order, OutOfTurn, check, revise
from studio.dataset.read.formats import LayoutOptions
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import ReadOptions, Undecodable
from studio.dataset.record import Record
from studio.dataset.tokens.lengths import count
from studio.errors import BadInput
from studio.recipe.fields import Data


def main(path: str) -> int:
    order: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    bound_memory(int(order["memory_mb"]) * 2**20)
    task = {"check": _check, "revise": _revise, "count": _count}[order["task"]]
    try:
        _send(report=task(order))
    except Undecodable as error:
        _send(error=str(error), proposals=[asdict(item) for item in error.proposals])
    except BadInput as error:
        _send(error=str(error), turns=isinstance(error, OutOfTurn))
    except MemoryError:
        _send(error="", memory=True)
    return 0


def _check(order: dict[str, Any]) -> dict[str, Any]:
    request = Order(
        file=Path(order["file"]),
        held_out=Path(order["held_out"]) if order["held_out"] else None,
        format=order["format"],
        mapping=order["mapping"],
        how=ReadOptions(**order["how"]),
        shards=tuple(Path(path) for path in order["shards"]),
        layout=LayoutOptions(**order["layout"]),
    )
    return asdict(check(request, Limits(**order["limits"]), Path(order["folder"]), _progress))


def _revise(order: dict[str, Any]) -> dict[str, Any]:
    edits = {int(place): Record(**values) for place, values in order["edits"].items()}
    digest, writer = revise(Path(order["base"]), set(order["drop"]), edits, Path(order["folder"]), _progress)
    return {"id": digest, "ok": writer.rows, "held_out": writer.held_out, "counts": writer.counts}


def _count(order: dict[str, Any]) -> dict[str, Any]:
    count(
        Path(order["dataset"]),
        Path(order["model"]),
        Data(**order["data"]),
        Path(order["cache"]),
        lambda done, of: _progress("Counting tokens", done, of),
    )
    return {}


def _progress(what: str, done: int, of: int) -> None:
    _send(doing=what, done=done, of=of)


def _send(**value: Any) -> None:
    print(json.dumps(value), flush=True)


def bound_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # not Unix: only the time limit applies
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bound = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
