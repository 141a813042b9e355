"""The list of runs: searched, filtered, sorted and cut into pages by SQLite.

A search is for parts of words, which no index of SQLite answers: it reads the `words` of the owner's runs. Everything
else goes by the indices of tables.py.
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

# By state: what is at work first, then what waits, then what is over, by how well.
_RANKS = ("running", "stalled", "stopping", "starting", "queued", "completed", "stopped", "interrupted", "failed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs, in which order. terms: all of them are in what is searched, in one case; down: largest first."""

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
    """How many runs, and the bytes of disk that those take whose size is known."""

    count: int
    bytes: int


def _of(owner: str, trashed: bool) -> tuple[ColumnElement[bool], ...]:
    return Run.owner == owner, Run.trashed.is_not(None) if trashed else Run.trashed.is_(None)


def _matching(wanted: Wanted) -> list[ColumnElement[bool]]:
    found = [*_of(wanted.owner, wanted.trashed)]
    found += [Run.words.contains(term, autoescape=True) for term in wanted.terms]
    if wanted.states:
        found.append(Run.state.in_(wanted.states))
    if wanted.model:
        found.append(Run.model == wanted.model)
    if wanted.dataset:
        found.append(Run.dataset_name == wanted.dataset)
    if wanted.tag:
        found.append(Run.id.in_(select(RunTag.run).where(RunTag.tag == wanted.tag)))
    if wanted.starred:
        found.append(Run.starred.is_(True))
    return found


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
    """The runs of one page, without recipe and plan, and how many match in all. Runs without a value come last."""
    matching = _matching(wanted)
    key = _key(wanted.sort, time.time())
    order = (key.is_(None), key.desc() if wanted.down else key.asc(), Run.created.desc(), Run.id.desc())
    query: Select[Run] = select(Run).options(defer(Run.recipe), defer(Run.plan)).where(*matching).order_by(*order)
    with database.read() as session:
        total = session.scalar(select(func.count()).select_from(Run).where(*matching)) or 0
        return session.scalars(query.limit(limit).offset(offset)).all(), total


def facets(database: Database, owner: str, trashed: bool = False) -> dict[str, dict[str, int]]:
    """What an owner's runs can be filtered by: the values of state, model, dataset and tag, and how many have each."""
    of = _of(owner, trashed)
    found: dict[str, dict[str, int]] = {}
    with database.read() as session:
        for name, column in (("state", Run.state), ("model", Run.model), ("dataset", Run.dataset_name)):
            rows = session.execute(select(column, func.count()).where(*of).group_by(column).order_by(column))
            found[name] = {str(value): count for value, count in rows if value}
        tags = select(RunTag.tag, func.count()).join(Run, Run.id == RunTag.run).where(*of)
        found["tag"] = {tag: count for tag, count in session.execute(tags.group_by(RunTag.tag).order_by(RunTag.tag))}
    return found


def sums(database: Database, owner: str, trashed: bool) -> Sums:
    """All runs of an owner, either in the list or in the trash."""
    query = select(func.count(), func.coalesce(func.sum(Run.bytes), 0)).select_from(Run).where(*_of(owner, trashed))
    with database.read() as session:
        count, taken = session.execute(query).one()
    return Sums(count, taken or 0)


def trashed_ids(database: Database, owner: str) -> Sequence[str]:
    """Ids of the runs in an owner's trash, last thrown first."""
    query = select(Run.id).where(*_of(owner, True)).order_by(Run.trashed.desc())
    with database.read() as session:
        return session.scalars(query).all()


# Asked at every look of the keeper: plain SQL, since putting the same query together costs ten times what it does.
_FINAL = ", ".join(f"'{state}'" for state in FINAL)
_UNMEASURED = f"""
SELECT id, bytes FROM runs WHERE bytes IS NULL
 OR (state IN ({_FINAL}) AND (bytes_at <= coalesce(ended, 0) OR bytes_at < :over))
 OR (state NOT IN ({_FINAL}) AND bytes_at < :live)
ORDER BY bytes_at, created DESC
"""  # noqa: S608 - words of ours


def unmeasured(database: Database, now: float, live: float, over: float) -> Sequence[tuple[str, int | None]]:
    """Runs whose size is not known any more, and the one that was: never measured, or `live` or `over` seconds ago."""
    with database.read() as session:
        rows = session.connection().exec_driver_sql(_UNMEASURED, {"live": now - live, "over": now - over})
        return [(run, taken) for run, taken in rows]


def measured(database: Database, sizes: dict[str, int], now: float) -> None:
    """Take down the bytes of disk that runs take."""
    with database.write() as session:
        for run, taken in sizes.items():
            session.execute(update(Run).where(Run.id == run).values(bytes=taken, bytes_at=now))
