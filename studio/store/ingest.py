"""Journals into tables. Idempotent on (run, seq): the same lines read twice change nothing, and the journal offset
is stored in the transaction that stores the lines. The tables can be deleted and built again from run directories.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import Event as JournalEvent
from studio.rundir import RunDir, read_events, read_json
from studio.store.db import Database
from studio.store.tables import Event, Point, Run

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
_SUMMARY_FIELDS = ("step", "loss", "tokens_per_s", "step_seconds", "memory")


def register(database: Database, run: RunDir) -> bool:
    """Give a run directory its row; False when it has one already or is no readable run."""
    try:
        recipe = Recipe.load(run.recipe)
    except BadInput:
        return False
    about = read_json(run.about) or {}
    dataset = read_json(run.dataset) or {}
    row = {
        "id": run.id,
        "owner": str(about.get("owner", "local")),
        "name": str(about.get("name") or recipe.name or run.id),
        "model": recipe.model.model,
        "dataset": str(dataset.get("id", "")),
        "dataset_name": str(dataset.get("name", "")),
        "recipe": recipe.to_yaml(),
        "path": str(run.path),
        "created": float(about.get("created", run.path.stat().st_ctime)),
    }
    with database.write() as session:
        return session.scalar(insert(Run).values(**row).on_conflict_do_nothing().returning(Run.id)) is not None


def ingest(database: Database, run: RunDir) -> int:
    """Take in what is new in a run's journal; returns the number of new events."""
    with database.read() as reading:
        offset = reading.scalar(select(Run.offset).where(Run.id == run.id)) or 0
    try:
        if run.events.stat().st_size == offset:
            return 0
    except FileNotFoundError:
        return 0
    news = read_events(run.events, offset)
    with database.write() as session:
        row = session.get_one(Run, run.id)
        fresh = [event for event in news.events if event.seq > row.last_seq]
        for event in fresh:
            _take(session, row, event)
        row.offset = news.offset
    return len(fresh)


def _take(session: Session, row: Run, event: JournalEvent) -> None:
    payload = event.payload
    step = payload.get("step")
    if event.kind in ("metric", "eval"):
        values: dict[str, Any] = {name: _number(payload.get(name)) for name in _POINT_FIELDS}
        if event.kind == "eval":
            values |= {"token_accuracy": _number(payload.get("eval_token_accuracy")), "tokens_per_s": None}
        point = {"run": row.id, "seq": event.seq, "time": event.time, "step": step, **values}
        session.execute(insert(Point).values(point).on_conflict_do_nothing())
    else:
        line = {
            "run": row.id,
            "seq": event.seq,
            "time": event.time,
            "kind": event.kind,
            "step": step,
            "payload": payload,
        }
        session.execute(insert(Event).values(line).on_conflict_do_nothing())
    _summarise(row, event)
    row.last_seq = event.seq


def _summarise(row: Run, event: JournalEvent) -> None:
    """Keep the run's own row at what its list line shows."""
    payload = event.payload
    if event.kind == "metric":
        for name in _SUMMARY_FIELDS:
            if name in payload:
                setattr(row, name, _number(payload[name]))
        row.doing = ""
    elif event.kind == "eval":
        row.eval_loss = _number(payload.get("eval_loss"))
        if row.eval_loss is not None:
            row.best_eval = row.eval_loss if row.best_eval is None else min(row.best_eval, row.eval_loss)
    elif event.kind == "plan":
        row.plan = payload
        row.total_steps = int(payload.get("total_steps", 0))
        row.device = str(payload.get("device", ""))
    elif event.kind == "progress":
        row.doing = str(payload.get("what", ""))
    elif event.kind == "state":
        row.state = str(payload.get("state", row.state))
        row.started = row.started or event.time


def _number(value: Any) -> Any:
    """Numbers as they are; the names of numbers that JSON lacks ("nan") as nothing, since a column orders by it."""
    return value if isinstance(value, (int, float)) else None


def rebuild(database: Database, folder: Path) -> int:
    """Build the run tables again from the run directories below `folder`; returns the number of runs."""
    with database.write() as session:
        for table in (Point, Event, Run):
            session.execute(delete(table))
    count = 0
    for path in sorted(folder.iterdir()):
        run = RunDir(path)
        if not path.name.startswith(".") and register(database, run):
            ingest(database, run)
            count += 1
    return count
