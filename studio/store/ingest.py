"""Ingest journals into tables.

Idempotent on (run, seq): reading the same lines twice changes nothing, and the journal offset is stored in the same
transaction as the lines. The tables can be deleted and rebuilt from the run directories.
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
# Bypasses SQLAlchemy's insert, which creates a dictionary for every row.
_INSERT_POINT = (
    f"INSERT INTO points (run, seq, time, step, {', '.join(_POINT_FIELDS)}) "  # noqa: S608 - constants only
    f"VALUES ({', '.join('?' * (4 + len(_POINT_FIELDS)))}) ON CONFLICT DO NOTHING"
)
_PIECE = 20_000  # events in one transaction
_SUMMARY_FIELDS = ("step", "loss", "tokens_per_s", "step_seconds", "memory")


def register(database: Database, run: RunDir) -> bool:
    """Add a row for a run directory; False when it has one already or is not a readable run."""
    try:
        recipe = Recipe.load(run.recipe)
    except BadInput:
        return False
    version, about = stamp(run), About.read(run)
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
    columns = _about_columns(about, version, about.name or recipe.name or run.id, row)
    with database.write() as session:
        new = (
            session.scalar(insert(Run).values(**row, **columns).on_conflict_do_nothing().returning(Run.id)) is not None
        )
        if new:
            _tag(session, run.id, about)
    return new


def take_about(database: Database, run: RunDir) -> None:
    """Ingest the current about.json of a run that has a row."""
    version, about = stamp(run), About.read(run)
    with database.write() as session:
        row = session.get_one(Run, run.id)
        known = {"id": row.id, "model": row.model, "dataset_name": row.dataset_name}
        for name, value in _about_columns(about, version, about.name or row.name, known).items():
            setattr(row, name, value)
        _tag(session, run.id, about)


def _about_columns(about: About, version: str, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that come from about.json. version: its stamp from before it was read."""
    searched = (name, about.notes, " ".join(about.tags), row["id"], row["model"], row["dataset_name"])
    return {
        "name": name,
        "place": place_of(about),
        "about": version,
        "notes": about.notes,
        "tags": list(about.tags),
        "starred": about.starred,
        "trashed": about.trashed,
        "words": "\n".join(searched).casefold(),
        "name_key": re.sub(r"\d+", lambda match: match[0].zfill(12), name.casefold()),
    }


def _tag(session: Session, run_id: str, about: About) -> None:
    session.execute(delete(RunTag).where(RunTag.run == run_id))
    if about.tags:
        session.execute(insert(RunTag), [{"run": run_id, "tag": tag} for tag in about.tags])


def place_of(about: About) -> float:
    """Position of a run in the queue, from about.json: by default the time of its creation."""
    return next((value for value in (about.order, about.created) if value is not None), 0.0)


def ingest(database: Database, run: RunDir) -> int:
    """Ingest new events from a run's journal; returns their number.

    A long journal is ingested in pieces, each in one transaction with the new offset, so that others can write in
    between and a kill costs at most the last piece.
    """
    with database.read() as session:
        first = session.connection().exec_driver_sql('SELECT "offset" FROM runs WHERE id = ?', (run.id,)).first()
    offset = first[0] if first else 0
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
    """Store events in batches: a journal may have a million."""
    points: list[tuple[Any, ...]] = []
    others: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}  # columns of the run's row, which is slow to set at every step

    def put() -> None:
        if points:
            session.connection().exec_driver_sql(_INSERT_POINT, points)
        if others:
            session.execute(insert(Event).on_conflict_do_nothing(), others)
        points.clear()
        others.clear()
        for name, value in summary.items():
            setattr(row, name, value)
        summary.clear()

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
        _summarise(row, summary, event)
        summary["last_seq"] = event.seq
    put()


def _values(kind: str, payload: dict[str, Any]) -> list[Any]:
    """The values of a point, in the order of _POINT_FIELDS."""
    get = payload.get
    values = [get(name) for name in _POINT_FIELDS]
    if kind == "eval":
        values[_TOKENS_PER_S], values[_ACCURACY] = None, get("eval_token_accuracy")
    return [value if isinstance(value, (int, float)) else None for value in values]


def _go_back(session: Session, row: Run, seq: int, step: int) -> None:
    """Delete the points, checkpoints and samples after `step`: a resumed worker will produce them again."""
    session.execute(delete(Point).where(Point.run == row.id, Point.seq < seq, Point.step > step))
    again = Event.kind.in_(("checkpoint", "sample"))
    session.execute(delete(Event).where(Event.run == row.id, Event.seq < seq, Event.step > step, again))
    points = session.scalars(select(Point).where(Point.run == row.id, Point.seq < seq).order_by(Point.seq)).all()
    metrics = [point for point in points if point.eval_loss is None]
    evals = [point.eval_loss for point in points if point.eval_loss is not None]
    row.step, row.loss = step, metrics[-1].loss if metrics else None
    row.eval_loss, row.best_eval = (evals[-1], min(evals)) if evals else (None, None)


def again(database: Database, run: RunDir) -> None:
    """Ingest a run's journal again from its start, since a power cut may have lost its end."""
    series_sync.drop(database, run.id)
    with database.write() as session:
        for table in (Point, Event):
            session.execute(delete(table).where(table.run == run.id))
        row = session.get_one(Run, run.id)
        row.offset = row.last_seq = row.step = 0
        row.loss = row.eval_loss = row.best_eval = None
    ingest(database, run)


def _summarise(row: Run, summary: dict[str, Any], event: JournalEvent) -> None:
    """Update the columns of the run's row, as shown in the list, with one event."""
    payload = event.payload
    if event.kind == "metric":
        for name in _SUMMARY_FIELDS:
            if name in payload:
                summary[name] = _number(payload[name])
        summary["doing"] = ""
    elif event.kind == "eval":
        loss = summary["eval_loss"] = _number(payload.get("eval_loss"))
        best = summary.get("best_eval", row.best_eval)
        if loss is not None:
            summary["best_eval"] = loss if best is None else min(best, loss)
    elif event.kind == "plan":
        summary["plan"] = payload
        summary["total_steps"] = int(payload.get("total_steps", 0))
        summary["device"] = str(payload.get("device", ""))
    elif event.kind == "progress":
        summary["doing"] = str(payload.get("what", ""))
    elif event.kind == "state" and not row.started:
        # The state itself is set by the keeper: a worker may die between its last event and its end.
        summary.setdefault("started", event.time)


def _number(value: Any) -> Any:
    """Return numbers unchanged and None for the names of non-finite ones ("nan"), since the column is sorted by."""
    return value if isinstance(value, (int, float)) else None


def rebuild(database: Database, folder: Path) -> int:
    """Rebuild the run tables from the run directories in `folder`; returns the number of runs."""
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
