"""The index of dataset folders."""

from collections.abc import Sequence

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.sqlite import insert

from studio.store.db import Database
from studio.store.tables import Dataset


def put(database: Database, **row: object) -> None:
    """Add a dataset to the index, given its column values; adding it again changes nothing."""
    with database.write() as session:
        session.execute(insert(Dataset).values(row).on_conflict_do_nothing())


def every(database: Database, owners: Sequence[str]) -> Sequence[Dataset]:
    """All datasets of these owners, newest first."""
    with database.read() as session:
        return session.scalars(select(Dataset).where(Dataset.owner.in_(owners)).order_by(Dataset.created.desc())).all()


def find(database: Database, owners: Sequence[str], key: str) -> Dataset | None:
    """The dataset with this id, prefix of an id, or name (the newest with that name)."""
    mine = select(Dataset).where(Dataset.owner.in_(owners)).order_by(Dataset.created.desc())
    match = or_(Dataset.name == key, Dataset.id == key)
    if len(key) >= 6:  # a shorter key is more likely a mistyped name than a prefix of an id
        match = or_(match, Dataset.id.startswith(key, autoescape=True))
    with database.read() as session:
        return session.scalars(mine.where(match)).first()


def known_ids(database: Database) -> set[str]:
    """Ids of all indexed datasets."""
    with database.read() as session:
        return {row[0] for row in session.connection().exec_driver_sql("SELECT id FROM datasets")}


def forget(database: Database, dataset_id: str) -> None:
    """Remove a dataset from the index."""
    with database.write() as session:
        session.execute(delete(Dataset).where(Dataset.id == dataset_id))
