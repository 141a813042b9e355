"""Journals into tables. Idempotent on (run, seq): the same lines read twice change nothing, and the journal offset
is stored in the transaction that stores the lines. The tables can be deleted and built again from run directories.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import About, RunDir, read_events, read_json
from studio.rundir import Event as JournalEvent
from studio.rundir.about import stamp
from studio.store.db import Database
from studio.store.series import sync as series_sync
from studio.store.tables import Event, Point, Run, RunTag

_POINT_FIELDS = (
    "epoch",
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "tokens",
    "tokens_per_s",
    "step_seconds",
    "memory",
    "token_accuracy",
)
_TOKENS_PER_S, _ACCURACY = _POINT_FIELDS.index("tokens_per_s"), _POINT_FIELDS.index("token_accuracy")
# Past SQLAlchemy's own, which makes a dictionary of every row.
_INSERT_POINT = (
    f"INSERT INTO points (run, seq, time, step, {', '.join(_POINT_FIELDS)}) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join('?' * (4 + len(_POINT_FIELDS)))}) ON CONFLICT DO NOTHING"
)
_PIECE = 20_000  # events in one transaction
_SUMMARY_FIELDS = ("step", "loss", "tokens_per_s", "step_seconds", "memory")


def register(database: Database, run: RunDir) -> bool:
    """Give a run directory its row; False when it has one already or is no readable run."""
    try:
        recipe = Recipe.load(run.recipe)
    except BadInput:
        return False
    seen, about = stamp(run), About.read(run)
    dataset = read_json(run.dataset) or {}
    row = {
        "id": run.id,
        "owner": about.owner,
        "model": recipe.model.model,
        "dataset": str(dataset.get("id", "")),
        "dataset_name": str(dataset.get("name", "")),
        "recipe": recipe.to_yaml(),
        "path": str(run.path),
        "created": run.path.stat().st_ctime if about.created is None else about.created,
    }
    said = _said(about, seen, about.name or recipe.name or run.id, row)
    with database.write() as session:
        new = session.scalar(insert(Run).values(**row, **said).on_conflict_do_nothing().returning(Run.id)) is not None
        if new:
            _tag(session, run.id, about)
    return new


def take_about(database: Database, run: RunDir) -> None:
    """Take in what about.json says now of a run that has a row."""
    seen, about = stamp(run), About.read(run)
    with database.write() as session:
        row = session.get_one(Run, run.id)
        known = {"id": row.id, "model": row.model, "dataset_name": row.dataset_name}
        for name, value in _said(about, seen, about.name or row.name, known).items():
            setattr(row, name, value)
        _tag(session, run.id, about)


def _said(about: About, seen: str, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that come from about.json; seen: the stamp from before it was read."""
    searched = (name, about.notes, " ".join(about.tags), row["id"], row["model"], row["dataset_name"])
    return {
        "name": name,
        "place": place_of(about),
        "about": seen,
        "notes": about.notes,
        "tags": list(about.tags),
        "starred": about.starred,
        "trashed": about.trashed,
        "words": "\n".join(searched).casefold(),
        "name_key": re.sub(r"\d+", lambda found: found[0].zfill(12), name.casefold()),
    }


def _tag(session: Session, run_id: str, about: About) -> None:
    session.execute(delete(RunTag).where(RunTag.run == run_id))
    if about.tags:
        session.execute(insert(RunTag), [{"run": run_id, "tag": tag} for tag in about.tags])


def place_of(about: About) -> float:
    """Where about.json puts a run in the queue: by default in the order in which runs were made."""
    return next((value for value in (about.order, about.created) if value is not None), 0.0)


def ingest(database: Database, run: RunDir) -> int:
    """Take in what is new in a run's journal; returns the number of new events.

    A long journal is taken in piece by piece, each with the offset behind it in one transaction, so that others may
    write in between and a kill costs the last piece at most.
    """
    with database.read() as reading:
        found = reading.connection().exec_driver_sql('SELECT "offset" FROM runs WHERE id = ?', (run.id,)).first()
    offset = found[0] if found else 0
    taken = 0
    while True:
        try:
            if run.events.stat().st_size == offset:
                return taken
        except FileNotFoundError:
            return taken
        news = read_events(run.events, offset, limit=_PIECE)
        with database.write() as session:
            row = session.get_one(Run, run.id)
            last = row.last_seq
            fresh = [event for event in news.events if event.seq > last]
            _take(session, row, fresh)
            row.offset = news.offset
            last = row.last_seq
        taken += len(fresh)
        if fresh:
            series_sync.catch_up(database, run.id, last)
        if len(news.events) + news.damaged < _PIECE:
            return taken
        offset = news.offset


def _take(session: Session, row: Run, fresh: list[JournalEvent]) -> None:
    """Take events in, many at once: a journal may have a million."""
    points: list[tuple[Any, ...]] = []
    others: list[dict[str, Any]] = []
    told: dict[str, Any] = {}  # of the run's own row, which is slow to set at every step

    def put() -> None:
        if points:
            session.connection().exec_driver_sql(_INSERT_POINT, points)
        if others:
            session.execute(insert(Event).on_conflict_do_nothing(), others)
        points.clear()
        others.clear()
        for name, value in told.items():
            setattr(row, name, value)
        told.clear()

    run = row.id
    for event in fresh:
        payload, kind = event.payload, event.kind
        step = payload.get("step")
        if kind in ("metric", "eval"):
            points.append((run, event.seq, event.time, step, *_values(kind, payload)))
        else:
            line = {"run": run, "seq": event.seq, "time": event.time, "step": step}
            others.append(line | {"kind": kind, "payload": payload})
        if kind == "resumed":
            put()
            _go_back(session, row, event.seq, int(step or 0))
        _summarise(row, told, event)
        told["last_seq"] = event.seq
    put()


def _values(kind: str, payload: dict[str, Any]) -> list[Any]:
    """The values of a point, in the order of _POINT_FIELDS."""
    get = payload.get
    values = [get(name) for name in _POINT_FIELDS]
    if kind == "eval":
        values[_TOKENS_PER_S], values[_ACCURACY] = None, get("eval_token_accuracy")
    return [value if isinstance(value, (int, float)) else None for value in values]


def _go_back(session: Session, row: Run, seq: int, step: int) -> None:
    """A worker goes on from `step`: what an earlier one did beyond it, it will do again."""
    session.execute(delete(Point).where(Point.run == row.id, Point.seq < seq, Point.step > step))
    again = Event.kind.in_(("checkpoint", "sample"))
    session.execute(delete(Event).where(Event.run == row.id, Event.seq < seq, Event.step > step, again))
    points = session.scalars(select(Point).where(Point.run == row.id, Point.seq < seq).order_by(Point.seq)).all()
    metrics = [point for point in points if point.eval_loss is None]
    evals = [point.eval_loss for point in points if point.eval_loss is not None]
    row.step, row.loss = step, metrics[-1].loss if metrics else None
    row.eval_loss, row.best_eval = (evals[-1], min(evals)) if evals else (None, None)


def again(database: Database, run: RunDir) -> None:
    """Take in a run's journal from its start, whatever was taken in before: a power cut may have taken its end."""
    series_sync.drop(database, run.id)
    with database.write() as session:
        for table in (Point, Event):
            session.execute(delete(table).where(table.run == run.id))
        row = session.get_one(Run, run.id)
        row.offset = row.last_seq = row.step = 0
        row.loss = row.eval_loss = row.best_eval = None
    ingest(database, run)


def _summarise(row: Run, told: dict[str, Any], event: JournalEvent) -> None:
    """What the run's own row is to say now, which is what its list line shows."""
    payload = event.payload
    if event.kind == "metric":
        for name in _SUMMARY_FIELDS:
            if name in payload:
                told[name] = _number(payload[name])
        told["doing"] = ""
    elif event.kind == "eval":
        loss = told["eval_loss"] = _number(payload.get("eval_loss"))
        best = told.get("best_eval", row.best_eval)
        if loss is not None:
            told["best_eval"] = loss if best is None else min(best, loss)
    elif event.kind == "plan":
        told["plan"] = payload
        told["total_steps"] = int(payload.get("total_steps", 0))
        told["device"] = str(payload.get("device", ""))
    elif event.kind == "progress":
        told["doing"] = str(payload.get("what", ""))
    elif event.kind == "state" and not row.started:
        # The state itself is the keeper's to tell: a worker may die between its last word and its end.
        told.setdefault("started", event.time)


def _number(value: Any) -> Any:
    """Numbers as they are; the names of numbers that JSON lacks ("nan") as nothing, since a column orders by it."""
    return value if isinstance(value, (int, float)) else None


def rebuild(database: Database, folder: Path) -> int:
    """Build the run tables again from the run directories below `folder`; returns the number of runs."""
    with database.write() as session:
        for table in (Point, Event, RunTag, Run):
            session.execute(delete(table))
    count = 0
    for path in sorted(folder.iterdir()):
        run = RunDir(path)
        if not path.name.startswith(".") and register(database, run):
            series_sync.drop(database, run.id)
            ingest(database, run)
            count += 1
    return count
