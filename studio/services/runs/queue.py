"""The queue: runs wait in order for the device. The order stands in each run's about.json and outlives the database."""

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
# Below this two places can no longer be told apart for sure.
_NARROW = 1e-4


def place_of(studio: Studio, row: Run) -> float:
    """Where a run stands in the queue, as its files say."""
    said = About.read(studio.run_dir(row.id))
    return row.created if said.created is None and said.order is None else ingest.place_of(said)


def set_place(run: RunDir, place: float) -> None:
    """Write a run's place in the queue into its files."""
    about.edit(run, order=place)


def reorder(studio: Studio, run_id: str, before: str | None = None) -> RunInfo:
    """Let a waiting run start before another that waits; without `before`, after all others."""
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
    """A place behind this one, and before runs that are made later."""
    return max(time.time(), place + 1e-3)


def first(studio: Studio, run_id: str) -> RunInfo:
    """Let a waiting run be the next to start."""
    info = _waiting(studio, run_id)
    ahead = next((row.id for row in line(studio) if row.id != info.id), None)
    return info if ahead is None else reorder(studio, info.id, ahead)


def start_now(studio: Studio, run_id: str) -> RunInfo:
    """Start a waiting run at once, beside what runs; raises Conflict when the memory free now is not enough."""
    info = _waiting(studio, run_id)
    _refuse_overtaking(studio, [*line(studio), *_active(studio)])
    row = rows.get(studio.database, info.id)
    short = lacking(studio, row, _active(studio))
    if short > 0:
        raise Conflict(
            f"Run {info.name} cannot start beside what runs now: {short / _GIB:.1f} GiB of memory are lacking. "
            "It stays in the queue; stop a run, or wait until one is over."
        )
    studio.run_dir(info.id).ask("start")
    studio.look()
    return runs.get(studio, info.id)


def lacking(studio: Studio, row: Run, active: list[Run]) -> int:
    """Bytes of device memory that a run would lack if it began now; 0 or less where it fits."""
    if not active:
        return 0
    now = machine.look(studio)
    # What runs has not yet taken all that it will.
    coming = sum(max(0, _needed(studio, other) - (other.memory or 0)) for other in active)
    return _needed(studio, row) - (now.device_total - now.device_used - coming)


def missing(studio: Studio, row: Run) -> int:
    """Bytes of device memory that a run would lack if it began now, beside all that has memory; 0 or less if none."""
    now = machine.look(studio)
    return _needed(studio, row) - (now.device_total - now.device_used)


def positions(studio: Studio) -> dict[str, int]:
    """The waiting runs by their place in the line, the next to start at 1."""
    return {row.id: number for number, row in enumerate(line(studio), 1)}


def line(studio: Studio) -> list[Run]:
    """The runs that wait, in the order in which they will start."""
    return list(rows.waiting(studio.database))


def _active(studio: Studio) -> list[Run]:
    return [row for row in rows.unfinished(studio.database) if row.state != "queued"]


def _waiting(studio: Studio, run_id: str) -> RunInfo:
    studio.look()
    info = runs.get(studio, run_id)
    if info.state != "queued":
        raise Conflict(f"Run {info.name} ({info.id}) does not wait: it is {info.state}.")
    return info


def _refuse_overtaking(studio: Studio, others: list[Run]) -> None:
    """The order among several people is that of asking: nobody puts their runs before another's."""
    if any(row.owner != studio.owner for row in others) and not studio.visitor.admin:
        raise Conflict(
            "Runs of other people are at work or wait too: all start in the order in which they were asked for."
        )


def _other(studio: Studio, run_id: str, before: str) -> str:
    other = _waiting(studio, before)
    if other.id == run_id:
        raise BadInput("A run cannot be moved before itself.")
    return other.id


def _needed(studio: Studio, row: Run) -> int:
    """Peak bytes of a run, with the runtime's own."""
    run = studio.run_dir(row.id)
    told = (read_json(run.path / "estimate.json") or {}).get("predicted_bytes")
    predicted = int(told) if isinstance(told, int | float) else 0
    try:
        with acting(keeper_of(row.owner)):
            items = estimates.question(studio, recipe := Recipe.load(run.recipe)).footprint(recipe).items
    except BadInput:
        return predicted  # its model or dataset is gone: the worker will say so
    return predicted + sum(item.bytes for item in items if item.key == "runtime")


def _spread(studio: Studio, order: list[str], places: dict[str, float]) -> None:
    """Give the runs of a line the same places again in a new order, each a little after the one before."""
    last = float("-inf")
    for run_id, place in zip(order, sorted(places.values()), strict=True):
        last = max(place, last + 10 * _NARROW)
        if places[run_id] != last:
            set_place(studio.run_dir(run_id), last)
