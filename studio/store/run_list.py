"""The list of runs: searched, filtered, sorted and paged by SQLite.

A search matches parts of words, which no SQLite index supports: it scans `words` of the owner's runs. Everything else
uses the indices of tables.py.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select, update
from sqlalchemy.orm import defer

from studio.store.db import Database
from studio.store.runs import FINAL
from studio.store.tables import Run, RunTag

# Sort order of states: running ones first, then waiting ones, then finished ones, successful first.
_RANKS = ("running", "stalled", "stopping", "starting", "queued", "completed", "stopped", "interrupted", "failed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filter and sort order. terms: all must occur in the searched text, case-folded; down: largest first."""

    owner: str
    terms: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    model: str = ""
    dataset: str = ""
    tag: str = ""
    starred: bool = False
    trashed: bool = False
    sort: str = "created"
    down: bool = True


@dataclass(frozen=True, slots=True)
class Sums:
    """Number of runs, and the bytes on disk of those whose size is known."""

    count: int
    bytes: int


def _of(owner: str, trashed: bool) -> tuple[ColumnElement[bool], ...]:
    return Run.owner == owner, Run.trashed.is_not(None) if trashed else Run.trashed.is_(None)


def _matching(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions = [*_of(wanted.owner, wanted.trashed)]
    conditions += [Run.words.contains(term, autoescape=True) for term in wanted.terms]
    if wanted.states:
        conditions.append(Run.state.in_(wanted.states))
    if wanted.model:
        conditions.append(Run.model == wanted.model)
    if wanted.dataset:
        conditions.append(Run.dataset_name == wanted.dataset)
    if wanted.tag:
        conditions.append(Run.id.in_(select(RunTag.run).where(RunTag.tag == wanted.tag)))
    if wanted.starred:
        conditions.append(Run.starred.is_(True))
    return conditions


def _key(sort: str, now: float) -> Any:
    return {
        "created": Run.created,
        "trashed": Run.trashed,
        "name": Run.name_key,
        "model": Run.model,
        "dataset": Run.dataset_name,
        "state": case({state: rank for rank, state in enumerate(_RANKS)}, value=Run.state, else_=len(_RANKS)),
        "progress": Run.step,
        "loss": Run.loss,
        "eval": Run.best_eval,
        "duration": func.coalesce(Run.ended, now) - Run.started,
        "disk": Run.bytes,
    }[sort]


def page(database: Database, wanted: Wanted, limit: int, offset: int = 0) -> tuple[Sequence[Run], int]:
    """The runs of one page, without recipe and plan, and the total number of matches. Runs without a value are last."""
    matching = _matching(wanted)
    key = _key(wanted.sort, time.time())
    order = (key.is_(None), key.desc() if wanted.down else key.asc(), Run.created.desc(), Run.id.desc())
    query: Select[Run] = select(Run).options(defer(Run.recipe), defer(Run.plan)).where(*matching).order_by(*order)
    with database.read() as session:
        total = session.scalar(select(func.count()).select_from(Run).where(*matching)) or 0
        return session.scalars(query.limit(limit).offset(offset)).all(), total


def facets(database: Database, owner: str, trashed: bool = False) -> dict[str, dict[str, int]]:
    """Filter values of an owner's runs: each state, model, dataset and tag, with its number of runs."""
    of = _of(owner, trashed)
    counts: dict[str, dict[str, int]] = {}
    with database.read() as session:
        for name, column in (("state", Run.state), ("model", Run.model), ("dataset", Run.dataset_name)):
            rows = session.execute(select(column, func.count()).where(*of).group_by(column).order_by(column))
            counts[name] = {str(value): count for value, count in rows if value}
        tags = select(RunTag.tag, func.count()).join(Run, Run.id == RunTag.run).where(*of)
        counts["tag"] = {tag: count for tag, count in session.execute(tags.group_by(RunTag.tag).order_by(RunTag.tag))}
    return counts


def sums(database: Database, owner: str, trashed: bool) -> Sums:
    """Number and size of an owner's runs, either those in the list or those in the trash."""
    query = select(func.count(), func.coalesce(func.sum(Run.bytes), 0)).select_from(Run).where(*_of(owner, trashed))
    with database.read() as session:
        count, taken = session.execute(query).one()
    return Sums(count, taken or 0)


def trashed_ids(database: Database, owner: str) -> Sequence[str]:
    """Ids of the runs in an owner's trash, most recently trashed first."""
    query = select(Run.id).where(*_of(owner, True)).order_by(Run.trashed.desc())
    with database.read() as session:
        return session.scalars(query).all()


# Runs at every pass of the keeper: plain SQL, since building the query costs ten times as much as running it.
_FINAL = ", ".join(f"'{state}'" for state in FINAL)
_UNMEASURED = f"""
SELECT id, bytes FROM runs WHERE bytes IS NULL
 OR (state IN ({_FINAL}) AND (bytes_at <= coalesce(ended, 0) OR bytes_at < :over))
 OR (state NOT IN ({_FINAL}) AND bytes_at < :live)
ORDER BY bytes_at, created DESC
"""  # noqa: S608 - constants only


def unmeasured(database: Database, now: float, live: float, over: float) -> Sequence[tuple[str, int | None]]:
    """Runs whose size is out of date, with the last known size.

    A size is out of date when it was never measured, or more than `live` (`over` for finished runs) seconds ago.
    """
    with database.read() as session:
        rows = session.connection().exec_driver_sql(_UNMEASURED, {"live": now - live, "over": now - over})
        return [(run, taken) for run, taken in rows]


def measured(database: Database, sizes: dict[str, int], now: float) -> None:
    """Store the measured bytes on disk of runs."""
    with database.write() as session:
        for run, taken in sizes.items():
            session.execute(update(Run).where(Run.id == run).values(bytes=taken, bytes_at=now))
