"""The list of runs as a person looks through it: search, filters, order, pages, and what there is to filter by."""

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
# By what runs can be sorted, and whether the largest comes first unless told.
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
    """What is looked for. search: words that are all in name, notes, tags, id, model or dataset, in any case.

    Empty filters let everything pass. down: largest first; None: as usual for the order. trashed: in the trash instead.
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
    """One page of runs and how many match. kept, trash: of all the owner's runs. facets: values to filter by."""

    runs: list[RunInfo]
    total: int
    kept: Sums
    trash: Sums
    facets: dict[str, dict[str, int]]


def find(studio: Studio, query: Query) -> Listing:
    """The runs that match; raises BadInput for an order or state that does not exist. Reads no run directory."""
    wanted = _wanted(studio, query)
    studio.refresh()
    found, total = rows.page(studio.database, wanted, max(1, min(query.limit, MOST)), max(0, query.offset))
    return Listing(
        runs.brief(studio, found),
        total,
        rows.sums(studio.database, studio.owner, False),
        rows.sums(studio.database, studio.owner, True),
        rows.facets(studio.database, studio.owner, query.trashed),
    )


def find_every(studio: Studio, query: Query) -> list[RunInfo]:
    """As find, with what only the run directories tell, and with all sizes counted: for a command, which may wait."""
    wanted = _wanted(studio, query)
    studio.refresh()
    if studio.keeping:
        disk_usage.measure_some(studio, None)
    found, _ = rows.page(studio.database, wanted, query.limit, query.offset)
    return [runs.get(studio, row.id) for row in found]


def current(studio: Studio, since: float = 600.0) -> list[RunInfo]:
    """Runs that are not over, and those that ended within the last `since` seconds; newest first."""
    studio.refresh()
    return runs.brief(studio, stored.current(studio.database, studio.owner, time.time() - since))


def newest_about(studio: Studio) -> str:
    """Another text once a run was named, noted, tagged, starred or put into the trash, here or elsewhere."""
    return stored.newest_about(studio.database, studio.owner)


def count(studio: Studio) -> int:
    """How many runs there are, without the trash."""
    studio.refresh()
    return stored.count(studio.database, studio.owner)


@dataclass(frozen=True, slots=True)
class Others:
    """How many runs of other people are at work and wait: what one may know of them."""

    running: int
    waiting: int


def others(studio: Studio) -> Others:
    """What else is at work here."""
    theirs = [row.state for row in stored.unfinished(studio.database) if row.owner != studio.owner]
    waiting = theirs.count("queued")
    return Others(len(theirs) - waiting, waiting)


def _wanted(studio: Studio, query: Query) -> Wanted:
    sort = _ALIASES.get(query.sort, query.sort)
    if sort not in SORTS:
        raise BadInput(f"Runs cannot be sorted by {query.sort!r}. Known: {', '.join(SORTS)}.")
    states = tuple(filter(None, (one.strip() for one in query.state.split(","))))
    unknown = [one for one in states if one not in EXPLAINED]
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
