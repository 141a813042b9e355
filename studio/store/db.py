"""The database file: opened for one writer and many readers, migrated, set aside when damaged.

SQLite with WAL; busy_timeout is set before the journal mode, foreign keys are on, writes use BEGIN IMMEDIATE and are
serialised by one lock, readers use a separate read-only engine. Only the keeper of a home opens the writer (see
services/core/keeper.py). The content can be rebuilt from files, so a damaged database is never repaired.
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
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from studio.errors import BadInput, Unavailable
from studio.rundir import sha256, write_text

_MIGRATIONS = Path(__file__).parent / "migrations"
# SQLite's errors for a damaged file: result codes, and messages of the generic SQLITE_ERROR for files that lack our
# tables or were not written by SQLite.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR})
_MISSING = ("no such table", "no such column", "unsupported file format")
_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Database:
    """One home's database. `writable=False` opens it read-only.

    set_aside: where a damaged file was moved when this one replaced it; why: what was wrong with it. patience: seconds
    to wait for another program that has locked the file. damaged: whether damage was detected since. writes: number of
    transactions written by this object, from which a reader can tell whether anything may have changed.
    """

    def __init__(self, path: Path, writable: bool = True, patience: float = 10.0) -> None:
        self.path, self.writable, self.patience = path, writable, patience
        self.set_aside: Path | None = None
        self.why = ""
        self.damaged = False
        self.writes = 0
        # For the column files of store/series/sync.py: their folder, a lock, and the last filed seq of each run.
        self.curves = path.parent / "cache" / "curves"
        self.filing = threading.RLock()
        self.filed: dict[str, int] = {}
        self._lock = threading.RLock()
        self._writer: Engine | None = None
        self._inode = 0
        if writable:
            self._open_writer()
        self._reader = _engine(path, patience, readonly=True)
        self._shared = threading.local()

    def _open_writer(self) -> None:
        self.why = "" if not self.path.exists() else _fault(self.path, self.patience)
        # From here on the file changes: its stored checksum is no longer valid.
        _sum_of(self.path).unlink(missing_ok=True)
        if not self.why:
            try:
                self._writer = self._migrated()
            except (SQLAlchemyError, CommandError) as error:
                if is_locked(error):
                    raise _locked(self.path) from None
                self.why = f"its tables could not be brought up to date: {_first_line(error)}"
        if self._writer is None:
            self.set_aside = _set_aside(self.path)
            self._writer = self._migrated()
        self._inode = self.path.stat().st_ino

    def _migrated(self) -> Engine:
        engine = _engine(self.path, self.patience)
        try:
            migrate(engine, self.path)
        except BaseException:
            engine.dispose()
            raise
        return engine

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Open a write transaction: atomic, and one at a time."""
        if self._writer is None:
            raise RuntimeError("this database was opened read-only")
        with (
            self._watched(),
            self._lock,
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
        self.writes += 1

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Open a read-only session."""
        shared: Session | None = getattr(self._shared, "session", None)
        if shared is not None:
            yield shared
            return
        with self._watched(), Session(self._reader) as session:
            yield session

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Share one session between all reads of this thread, which see one snapshot, that of the first read."""
        with self.read() as session:
            self._shared.session, before = session, getattr(self._shared, "session", None)
            try:
                yield
            finally:
                self._shared.session = before

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError:
            # Caused by the request, not the file: a lone surrogate, which JSON can contain.
            raise BadInput("The request is not valid text: it contains half of a character.") from None
        except (DatabaseError, TypeError, ValueError) as error:
            # A flipped bit can leave a well-formed file with values that no longer parse.
            if not isinstance(error, DatabaseError) or is_damage(error):
                self.damaged = True
            raise

    def lost(self) -> bool:
        """Whether damage was detected, or the file at the path is no longer the one being written."""
        try:
            return self.damaged or self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def renew(self) -> None:
        """Set the file aside, if it exists, and create an empty one. Current readers keep reading the old one."""
        self.writes += 1
        with self._lock:
            self._reader.dispose()
            if self._writer is not None:
                self._writer.dispose()
            self._writer = None
            self.set_aside = _set_aside(self.path) if self.path.exists() else None
            self.why = "it was damaged while in use" if self.set_aside else "it was deleted while in use"
            self._writer = self._migrated()
            self._reader = _engine(self.path, self.patience, readonly=True)
            self._inode, self.damaged = self.path.stat().st_ino, False

    def close(self) -> None:
        self._reader.dispose()
        if self._writer is None:
            return
        # Damage is detected at the next opening; closing continues.
        with contextlib.suppress(SQLAlchemyError, OSError):
            with self._writer.connect() as connection:
                busy = connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._writer.dispose()
            if not busy and not self.lost():
                write_text(_sum_of(self.path), sha256(self.path) + "\n")
        self._writer.dispose()


def open_reader(path: Path, patience: float = 5.0) -> Database:
    """Open a home's database for reading; waits `patience` seconds for a studio that is still creating the file."""
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(sqlite3.Error, DatabaseError):
            database = Database(path, writable=False)
            with database.read() as session:
                session.connection()
            return database
        if time.monotonic() > deadline:
            raise Unavailable(f"The database {path} cannot be read while another studio is using it.")
        time.sleep(0.1)


def is_damage(error: BaseException) -> bool:
    """Whether an error means that the file is damaged, rather than busy, full or misused."""
    if not isinstance(error, DBAPIError):
        return False
    code = _code(error)
    return code in _DAMAGE or (code == sqlite3.SQLITE_ERROR and any(word in str(error.orig) for word in _MISSING))


def is_locked(error: BaseException) -> bool:
    """Whether an error means that another program has locked the file."""
    return _code(error) in _HELD


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code in an error of its driver or of SQLAlchemy; None if there is none."""
    code: int | None = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def locked_words(path: Path) -> str:
    """Message for a locked database."""
    return (
        f"The database {path} is locked by another program. Close that program (a database browser, a backup); "
        "runs continue meanwhile."
    )


def _locked(path: Path) -> Unavailable:
    return Unavailable(locked_words(path))


def _engine(path: Path, patience: float, readonly: bool = False) -> Engine:
    url = f"sqlite:///file:{path}?mode=ro&uri=true" if readonly else f"sqlite:///{path}"
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": patience})

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions itself: `_begin` does, with IMMEDIATE for writes.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
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
    """Migrate the tables to the newest revision in one transaction; an older database is backed up next to it first."""
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


def _sum_of(path: Path) -> Path:
    """Path of the sha256 of a closed database, which exists from a clean close to the next opening."""
    return path.with_name(path.name + ".sha256")


def _fault(path: Path, patience: float) -> str:
    """Describe what is wrong with a closed database file; empty if nothing.

    SQLite detects a broken structure; a changed digit in a value is only detected by the checksum, which exists after a
    clean close. After a kill there is none, and only SQLite's own full check is done.
    """
    checksum = _sum_of(path)
    side = path.with_name(path.name + "-wal")
    if checksum.is_file() and not (side.exists() and side.stat().st_size):
        same = checksum.read_text(errors="replace").strip() == sha256(path)
        return "" if same else "its content changed while it was closed"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=patience)) as connection:
            (message,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            return "" if message == "ok" else str(message).splitlines()[0]
    except sqlite3.DatabaseError as error:
        if is_locked(error):
            raise _locked(path) from None
        return str(error)


def _first_line(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]


def _set_aside(path: Path) -> Path:
    """Move a damaged database and its journals out of the way; nothing is deleted."""
    target = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000}")
    shutil.move(path, target)
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            shutil.move(side, target.with_name(target.name + suffix))
    return target
