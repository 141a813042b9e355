"""The queue: runs wait in order for the device. Their order is stored in each about.json and outlives the database."""

import time

from studio.errors import BadInput, Conflict
from studio.recipe import Recipe
from studio.rundir import About, RunDir, about, read_json
from studio.services.core.identity import acting, keeper_of
from studio.services.core.studio import Studio
from studio.services.host import machine
from studio.services.planning import estimates
from studio.services.runs import runs
from studio.services.runs.runs import RunInfo
from studio.store import ingest
from studio.store import runs as rows
from studio.store.tables import Run

_GIB = 2**30
# Two places closer than this may not be distinguishable.
_NARROW = 1e-4


def place_of(studio: Studio, row: Run) -> float:
    """A run's place in the queue, from its files."""
    labels = About.read(studio.run_dir(row.id))
    return row.created if labels.created is None and labels.order is None else ingest.place_of(labels)


def set_place(run: RunDir, place: float) -> None:
    """Write a run's place in the queue to its about.json."""
    about.edit(run, order=place)


def reorder(studio: Studio, run_id: str, before: str | None = None) -> RunInfo:
    """Move a waiting run before another one; without `before`, to the end of the queue."""
    info = _waiting(studio, run_id)
    waiting = line(studio)
    _refuse_overtaking(studio, waiting)
    others = [row for row in waiting if row.id != info.id]
    ids = [row.id for row in others]
    at = len(others) if before is None else ids.index(_other(studio, info.id, before))
    places = {row.id: place_of(studio, row) for row in waiting}
    low = places[others[at - 1].id] if at else None
    high = places[others[at].id] if at < len(others) else None
    if low is None or high is None:
        place = high - 1.0 if high is not None else after(low or 0.0)
        set_place(studio.run_dir(info.id), place)
    elif high - low > _NARROW:
        set_place(studio.run_dir(info.id), (low + high) / 2)
    else:
        _spread(studio, [*ids[:at], info.id, *ids[at:]], places)
    studio.look()
    return runs.get(studio, info.id)


def after(place: float) -> float:
    """A place after this one, and before runs that are created later."""
    return max(time.time(), place + 1e-3)


def first(studio: Studio, run_id: str) -> RunInfo:
    """Move a waiting run to the front of the queue."""
    info = _waiting(studio, run_id)
    ahead = next((row.id for row in line(studio) if row.id != info.id), None)
    return info if ahead is None else reorder(studio, info.id, ahead)


def start_now(studio: Studio, run_id: str) -> RunInfo:
    """Start a waiting run at once, next to those that run; raises Conflict when there is not enough free memory."""
    info = _waiting(studio, run_id)
    _refuse_overtaking(studio, [*line(studio), *_active(studio)])
    row = rows.get(studio.database, info.id)
    short = lacking(studio, row, _active(studio))
    if short > 0:
        raise Conflict(
            f"Run {info.name} cannot start next to the runs at work. Not enough memory: {short / _GIB:.1f} GiB short. "
            "It stays in the queue; stop a run, or wait until one is over."
        )
    studio.run_dir(info.id).ask("start")
    studio.look()
    return runs.get(studio, info.id)


def lacking(studio: Studio, row: Run, active: list[Run]) -> int:
    """Bytes of device memory that a run would be short of if it started now; 0 or less where it fits."""
    if not active:
        return 0
    now = machine.look(studio)
    # Live runs have not yet allocated their full peak.
    reserved = sum(max(0, _needed(studio, other) - (other.memory or 0)) for other in active)
    return _needed(studio, row) - (now.device_total - now.device_used - reserved)


def missing(studio: Studio, row: Run) -> int:
    """Bytes of device memory that a run would be short of, given what is free now; 0 or less where it fits."""
    now = machine.look(studio)
    return _needed(studio, row) - (now.device_total - now.device_used)


def positions(studio: Studio) -> dict[str, int]:
    """Positions of the waiting runs in the queue, by id; the next to start is 1."""
    return {row.id: number for number, row in enumerate(line(studio), 1)}


def line(studio: Studio) -> list[Run]:
    """The waiting runs, in the order in which they will start."""
    return list(rows.waiting(studio.database))


def _active(studio: Studio) -> list[Run]:
    return [row for row in rows.unfinished(studio.database) if row.state != "queued"]


def _waiting(studio: Studio, run_id: str) -> RunInfo:
    studio.look()
    info = runs.get(studio, run_id)
    if info.state != "queued":
        raise Conflict(f"Run {info.name} ({info.id}) is not waiting: it is {info.state}.")
    return info


def _refuse_overtaking(studio: Studio, others: list[Run]) -> None:
    """Refuse to move a run ahead of another visitor's: among visitors, runs start in order of request."""
    if any(row.owner != studio.owner for row in others) and not studio.visitor.admin:
        raise Conflict(
            "Other people have runs at work or waiting: all runs start in the order in which they were asked for."
        )


def _other(studio: Studio, run_id: str, before: str) -> str:
    other = _waiting(studio, before)
    if other.id == run_id:
        raise BadInput("A run cannot be moved before itself.")
    return other.id


def _needed(studio: Studio, row: Run) -> int:
    """Peak bytes of a run, including those of the runtime."""
    run = studio.run_dir(row.id)
    stored = (read_json(run.path / "estimate.json") or {}).get("predicted_bytes")
    predicted = int(stored) if isinstance(stored, int | float) else 0
    try:
        with acting(keeper_of(row.owner)):
            items = estimates.question(studio, recipe := Recipe.load(run.recipe)).footprint(recipe).items
    except BadInput:
        return predicted  # its model or dataset is gone: its worker will report that
    return predicted + sum(item.bytes for item in items if item.key == "runtime")


def _spread(studio: Studio, order: list[str], places: dict[str, float]) -> None:
    """Reassign the same places to runs in a new order, each a little after the one before."""
    last = float("-inf")
    for run_id, place in zip(order, sorted(places.values()), strict=True):
        last = max(place, last + 10 * _NARROW)
        if places[run_id] != last:
            set_place(studio.run_dir(run_id), last)
