"""Database tables. Rows that belong to a user have an `owner`.

runs      one row per run: what the list shows, and the progress of ingest (offset, last_seq)
run_tags  one row per tag of a run
points    metric and evaluation points, keyed by (run, seq): inserting twice changes nothing
events    all other journal events, with the same key
datasets  one row per dataset folder
"""

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all tables; Alembic compares migrations with its metadata."""


class Run(Base):
    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    model: Mapped[str]
    dataset: Mapped[str]
    dataset_name: Mapped[str]
    recipe: Mapped[str]
    path: Mapped[str]
    created: Mapped[float]
    state: Mapped[str] = mapped_column(default="queued")
    started: Mapped[float | None]
    ended: Mapped[float | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int] = mapped_column(default=0)
    loss: Mapped[float | None]
    eval_loss: Mapped[float | None]
    best_eval: Mapped[float | None]
    tokens_per_s: Mapped[float | None]
    step_seconds: Mapped[float | None]
    memory: Mapped[int | None]
    device: Mapped[str] = mapped_column(default="")
    doing: Mapped[str] = mapped_column(default="")
    message: Mapped[str] = mapped_column(default="")
    remedy: Mapped[str] = mapped_column(default="")
    plan: Mapped[dict[str, object]] = mapped_column(JSON, default=dict)
    cause: Mapped[str] = mapped_column(default="")
    place: Mapped[float] = mapped_column(default=0.0)
    attempt: Mapped[int] = mapped_column(default=1)
    stalled_since: Mapped[float | None]
    offset: Mapped[int] = mapped_column(default=0)
    last_seq: Mapped[int] = mapped_column(default=0)
    # From about.json; about: the stamp of the version that was ingested.
    about: Mapped[str] = mapped_column(default="")
    notes: Mapped[str] = mapped_column(default="")
    tags: Mapped[list[str]] = mapped_column(JSON, default=list)
    starred: Mapped[bool] = mapped_column(default=False)
    trashed: Mapped[float | None]
    # For the list. words: the searched text, case-folded; name_key: sorts run-9 before run-10.
    words: Mapped[str] = mapped_column(default="")
    name_key: Mapped[str] = mapped_column(default="")
    bytes: Mapped[int | None]
    bytes_at: Mapped[float] = mapped_column(default=0.0)


class RunTag(Base):
    __tablename__ = "run_tags"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)


class Point(Base):
    __tablename__ = "points"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[float]
    step: Mapped[int]
    epoch: Mapped[float | None]
    loss: Mapped[float | None]
    eval_loss: Mapped[float | None]
    learning_rate: Mapped[float | None]
    grad_norm: Mapped[float | None]
    tokens: Mapped[int | None]
    tokens_per_s: Mapped[float | None]
    step_seconds: Mapped[float | None]
    memory: Mapped[int | None]
    token_accuracy: Mapped[float | None]


class Event(Base):
    __tablename__ = "events"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[float]
    kind: Mapped[str]
    step: Mapped[int | None]
    payload: Mapped[dict[str, object]] = mapped_column(JSON)


class Dataset(Base):
    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    rows: Mapped[int]
    held_out: Mapped[int]
    format: Mapped[str]
    created: Mapped[float]
    size: Mapped[int]
    provenance: Mapped[dict[str, Any]] = mapped_column(JSON)


Index("ix_runs_created", Run.created)
Index("ix_runs_list", Run.owner, Run.trashed, Run.created)
Index("ix_runs_about", Run.owner, Run.about)
Index("ix_runs_named", Run.owner, Run.trashed, Run.name_key)
Index("ix_run_tags_tag", RunTag.tag)
Index("ix_events_kind", Event.run, Event.kind)
