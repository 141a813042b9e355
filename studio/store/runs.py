"""Queries on runs and their points. Every query of an owner's runs uses `_mine`, which filters by owner."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Select, bindparam, delete, func, or_, select

from studio.store.db import Database
from studio.store.tables import Event, Point, Run

FINAL = ("completed", "stopped", "failed", "interrupted")


def _mine(owner: str | BindParameter[str]) -> Select[Run]:
    return select(Run).where(Run.owner == owner)


def _kept(owner: str | BindParameter[str]) -> Select[Run]:
    return _mine(owner).where(Run.trashed.is_(None))


# Runs at every request of a page: built once.
_OWNER: BindParameter[str] = bindparam("owner")
_EXACT = _mine(_OWNER).where(Run.id == bindparam("run"))


def find(database: Database, owner: str, run_id: str) -> Run | None:
    """The run with this id, or the only one whose id starts with it."""
    with database.read() as session:
        exact = session.scalars(_EXACT, {"owner": owner, "run": run_id}).first()
        if exact is not None:
            return exact
        rows = session.scalars(_mine(owner).where(Run.id.startswith(run_id, autoescape=True)).limit(2)).all()
    return rows[0] if len(rows) == 1 else None


def get(database: Database, run_id: str) -> Run:
    """The row of an existing run of any owner: for the keeper."""
    with database.read() as session:
        return session.get_one(Run, run_id)


def every(database: Database, owner: str) -> Sequence[Run]:
    """All runs of an owner except those in the trash, newest first."""
    with database.read() as session:
        return session.scalars(_kept(owner).order_by(Run.created.desc(), Run.id.desc())).all()


def names(database: Database, owner: str) -> Sequence[str]:
    """The names of all runs of an owner, including those in the trash, which may be restored."""
    with database.read() as session:
        return session.scalars(select(Run.name).where(Run.owner == owner)).all()


def count(database: Database, owner: str) -> int:
    """Number of runs of an owner, without the trash."""
    with database.read() as session:
        return session.scalar(_kept(owner).with_only_columns(func.count())) or 0


def newest(database: Database, owner: str) -> Run | None:
    """The most recently created run of an owner, without the trash."""
    with database.read() as session:
        return session.scalars(_kept(owner).order_by(Run.created.desc(), Run.id.desc()).limit(1)).first()


_CURRENT = (
    _kept(_OWNER)
    .where(or_(Run.state.not_in(FINAL), Run.ended > bindparam("since")))
    .order_by(Run.created.desc(), Run.id.desc())
)


def current(database: Database, owner: str, since: float) -> Sequence[Run]:
    """Unfinished runs of an owner, and those that ended after `since`; newest first."""
    with database.read() as session:
        return session.scalars(_CURRENT, {"owner": owner, "since": since}).all()


_NEWEST_ABOUT = _mine(_OWNER).with_only_columns(func.max(Run.about))


def newest_about(database: Database, owner: str) -> str:
    """The newest stamp of an owner's about.json files, which changes when any of them is written; "" without runs."""
    with database.read() as session:
        return session.scalar(_NEWEST_ABOUT, {"owner": owner}) or ""


def unfinished(database: Database) -> Sequence[Run]:
    """Unfinished runs of all owners, in queue order: for the keeper."""
    query = select(Run).where(Run.state.not_in(FINAL)).order_by(Run.place, Run.created, Run.id)
    with database.read() as session:
        return session.scalars(query).all()


def waiting(database: Database) -> Sequence[Run]:
    """Queued runs of all owners, in the order in which they will start."""
    query = select(Run).where(Run.state == "queued").order_by(Run.place, Run.created, Run.id)
    with database.read() as session:
        return session.scalars(query).all()


@dataclass(frozen=True, slots=True)
class Known:
    """Columns that the keeper compares with a run directory. about: stamp of the ingested about.json."""

    over: bool
    about: str
    trashed: bool


def known(database: Database) -> dict[str, Known]:
    """Every run, of all owners."""
    with database.read() as session:
        rows = session.connection().exec_driver_sql("SELECT id, state, about, trashed FROM runs")
        return {run: Known(state in FINAL, about, trashed is not None) for run, state, about, trashed in rows}


def forget(database: Database, run_id: str) -> None:
    """Remove a run from the index, with its points and events."""
    with database.write() as session:
        session.execute(delete(Run).where(Run.id == run_id))


def update(database: Database, run_id: str, **values: Any) -> None:
    """Set columns of a run's row."""
    with database.write() as session:
        row = session.get_one(Run, run_id)
        for name, value in values.items():
            setattr(row, name, value)


def points_after(database: Database, run_id: str, after: int) -> Sequence[Point]:
    """Points of a run with a seq above `after`, in order."""
    with database.read() as session:
        return session.scalars(select(Point).where(Point.run == run_id, Point.seq > after).order_by(Point.seq)).all()


class LastEvent(NamedTuple):
    """An event, as in a run's journal."""

    seq: int
    time: float
    kind: str
    step: int | None
    payload: dict[str, Any]


_EVENTS = "SELECT seq, time, kind, step, payload FROM events WHERE run = ? AND seq > ? AND kind IN ({}) ORDER BY seq"


def events_after(database: Database, run_id: str, after: int, kinds: Sequence[str]) -> list[LastEvent]:
    """Events of the given kinds with a seq above `after`, in order. Plain SQL: see last_said."""
    with database.read() as session:
        query = _EVENTS.format(", ".join("?" * len(kinds)))
        rows = session.connection().exec_driver_sql(query, (run_id, after, *kinds)).all()
    return [LastEvent(seq, time, kind, step, json.loads(payload)) for seq, time, kind, step, payload in rows]


def last_event(database: Database, run_id: str, kind: str, after: int = 0) -> Event | None:
    """The newest event of a kind with a seq above `after`."""
    query = select(Event).where(Event.run == run_id, Event.kind == kind, Event.seq > after).order_by(Event.seq.desc())
    with database.read() as session:
        return session.scalars(query.limit(1)).first()


# Runs at every pass of the keeper and refresh of a page: plain SQL, since building the query costs ten times as much as
# running it.
_SAID = "SELECT time, payload FROM events WHERE run = ? AND kind = 'state' AND seq > ? ORDER BY seq DESC LIMIT 1"


def last_said(database: Database, run_id: str, after: int = 0) -> tuple[str, float | None]:
    """The last state reported by the worker that started after seq `after`, and its time; ("", None) if none yet."""
    with database.read() as session:
        row = session.connection().exec_driver_sql(_SAID, (run_id, after)).first()
    return ("", None) if row is None else (str((json.loads(row[1]) or {}).get("state", "")), row[0])


def last_seq(database: Database, run_id: str) -> int:
    """Seq of the last ingested event of a run; 0 without such a run."""
    with database.read() as session:
        return session.connection().exec_driver_sql("SELECT last_seq FROM runs WHERE id = ?", (run_id,)).scalar() or 0


_LIVE = f"SELECT 1 FROM runs WHERE id = ? AND owner = ? AND state NOT IN ({', '.join('?' * len(FINAL))})"  # noqa: S608


def is_live(database: Database, owner: str, run_id: str) -> bool:
    """Whether the owner has a run with exactly this id and it is not finished."""
    with database.read() as session:
        return session.connection().exec_driver_sql(_LIVE, (run_id, owner, *FINAL)).first() is not None
