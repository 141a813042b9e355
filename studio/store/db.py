"""The database file: opened for one writer and many readers, migrated, set aside when damaged.

SQLite with WAL; busy_timeout is set before the journal mode, foreign keys are on, writes begin IMMEDIATE and are
serialised by one lock, readers use an engine of their own that cannot write. Only the keeper of a home opens the
writer (see services/keeper.py).
"""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from studio.errors import Unavailable

_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One home's database. `writable=False` opens it for reading alone."""

    def __init__(self, path: Path, writable: bool = True) -> None:
        self.path, self.writable = path, writable
        self._lock = threading.Lock()
        self._writer: Engine | None = None
        self.set_aside: Path | None = None
        if writable:
            self._writer = self._open_writer()
        self._reader = _engine(path, readonly=True)

    def _open_writer(self) -> Engine:
        if self.path.exists() and not _healthy(self.path):
            self.set_aside = _set_aside(self.path)
        engine = _engine(self.path)
        migrate(engine, self.path)
        return engine

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: all of it or nothing. One at a time."""
        if self._writer is None:
            raise RuntimeError("this database was opened for reading alone")
        with self._lock, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that reads."""
        with Session(self._reader) as session:
            yield session

    def close(self) -> None:
        self._reader.dispose()
        if self._writer is not None:
            self._writer.dispose()


def open_reader(path: Path, patience: float = 5.0) -> Database:
    """A home's database for reading; waits `patience` seconds for a studio that is just making the file."""
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(sqlite3.Error, OperationalError):
            database = Database(path, writable=False)
            with database.read() as session:
                session.connection()
            return database
        if time.monotonic() > deadline:
            raise Unavailable(f"The database {path} cannot be read while another studio holds it.")
        time.sleep(0.1)


def _engine(path: Path, readonly: bool = False) -> Engine:
    url = f"sqlite:///file:{path}?mode=ro&uri=true" if readonly else f"sqlite:///{path}"
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: we begin them, IMMEDIATE where we write.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 10000")
        if not readonly:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


def migrate(engine: Engine, path: Path) -> None:
    """Bring the tables to the newest revision; an older database is copied beside itself first."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return
    if current is not None:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(path.with_name(f"{path.name}.before-{head}"))) as copy,
        ):
            source.backup(copy)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _healthy(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def _set_aside(path: Path) -> Path:
    """Move a damaged database and its journals out of the way; nothing is deleted."""
    target = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    shutil.move(path, target)
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            shutil.move(side, target.with_name(target.name + suffix))
    return target
