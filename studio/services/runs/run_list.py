"""The list of runs: search, filters, sorting, pages, and the values to filter by."""

import time
from dataclasses import dataclass

from studio.errors import BadInput
from studio.services.core.states import EXPLAINED
from studio.services.core.studio import Studio
from studio.services.runs import disk_usage, runs
from studio.services.runs.runs import RunInfo
from studio.store import run_list as rows
from studio.store import runs as stored
from studio.store.run_list import Sums, Wanted

PAGE = 50
MOST = 5_000
_SEARCH_MOST = 200
# Sort keys, and whether the largest comes first by default.
SORTS = {
    "created": True,
    "name": False,
    "state": False,
    "model": False,
    "dataset": False,
    "progress": True,
    "loss": False,
    "eval": False,
    "duration": True,
    "disk": True,
}
_ALIASES = {"newest": "created", "eval_loss": "eval", "best_eval": "eval", "data": "dataset", "step": "progress"}


@dataclass(frozen=True, slots=True)
class Query:
    """A query. search: words that must all occur in name, notes, tags, id, model or dataset, in any case.

    Empty filters match everything. down: largest first; None: the default of the sort key. trashed: list the trash
    instead.
    """

    search: str = ""
    state: str = ""
    model: str = ""
    dataset: str = ""
    tag: str = ""
    starred: bool = False
    trashed: bool = False
    sort: str = "created"
    down: bool | None = None
    limit: int = PAGE
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of runs and the number of matches.

    kept, trash: totals over all of the owner's runs. facets: values to filter by, with their counts.
    """

    runs: list[RunInfo]
    total: int
    kept: Sums
    trash: Sums
    facets: dict[str, dict[str, int]]


def find(studio: Studio, query: Query) -> Listing:
    """The runs that match; raises BadInput for an unknown sort key or state. Reads no run directory."""
    wanted = _wanted(studio, query)
    studio.refresh()
    page, total = rows.page(studio.database, wanted, max(1, min(query.limit, MOST)), max(0, query.offset))
    return Listing(
        runs.brief(studio, page),
        total,
        rows.sums(studio.database, studio.owner, False),
        rows.sums(studio.database, studio.owner, True),
        rows.facets(studio.database, studio.owner, query.trashed),
    )


def find_every(studio: Studio, query: Query) -> list[RunInfo]:
    """Same as `find`, with details from the run directories and all sizes measured: for commands, which may wait."""
    wanted = _wanted(studio, query)
    studio.refresh()
    if studio.keeping:
        disk_usage.measure_some(studio, None)
    page, _ = rows.page(studio.database, wanted, query.limit, query.offset)
    return [runs.get(studio, row.id) for row in page]


def current(studio: Studio, since: float = 600.0) -> list[RunInfo]:
    """Runs that are not over or ended within the last `since` seconds; newest first."""
    studio.refresh()
    return runs.brief(studio, stored.current(studio.database, studio.owner, time.time() - since))


def newest_about(studio: Studio) -> str:
    """A text that changes once any run's labels or trash state change, in this process or another."""
    return stored.newest_about(studio.database, studio.owner)


def count(studio: Studio) -> int:
    """Number of runs outside the trash."""
    studio.refresh()
    return stored.count(studio.database, studio.owner)


@dataclass(frozen=True, slots=True)
class Others:
    """Numbers of other owners' runs at work and waiting: all that a visitor may know about them."""

    running: int
    waiting: int


def others(studio: Studio) -> Others:
    """Count the runs of other owners."""
    theirs = [row.state for row in stored.unfinished(studio.database) if row.owner != studio.owner]
    waiting = theirs.count("queued")
    return Others(len(theirs) - waiting, waiting)


def _wanted(studio: Studio, query: Query) -> Wanted:
    sort = _ALIASES.get(query.sort, query.sort)
    if sort not in SORTS:
        raise BadInput(f"Runs cannot be sorted by {query.sort!r}. Known: {', '.join(SORTS)}.")
    states = tuple(filter(None, (name.strip() for name in query.state.split(","))))
    unknown = [name for name in states if name not in EXPLAINED]
    if unknown:
        raise BadInput(f"There is no state {unknown[0]!r}. Known: {', '.join(EXPLAINED)}.")
    return Wanted(
        studio.owner,
        tuple(query.search[:_SEARCH_MOST].casefold().split()),
        states,
        query.model,
        query.dataset,
        query.tag.strip().lstrip("#").lower(),
        query.starred,
        query.trashed,
        sort,
        SORTS[sort] if query.down is None else query.down,
    )
