"""Keeps the files of long runs (file.py) in step with the table of points.

The table is the truth. A file holds its first rows, a block of 4096 at a time, written behind the transaction that took
them in; what a kill keeps from being written is read from the table at the next look. A file whose last row is not in
the table, since a resumed run went back behind it, loses its last blocks until it is.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
from sqlalchemy import select

from studio.store.db import Database
from studio.store.series import file as series_file
from studio.store.series.file import AT, COLUMNS, ROWS, Array, SeriesFile
from studio.store.tables import Point

_AT_ONCE = 8  # blocks
_READ = f"SELECT {', '.join(COLUMNS)} FROM points WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?"  # noqa: S608


def path_of(database: Database, run: str) -> Path:
    """Where a run's file is, if it has one."""
    return database.curves / f"{run}.points"


def catch_up(database: Database, run: str, last_seq: int) -> None:
    """File what the table has beyond a run's file, if that is a block or more. `last_seq`: where the journal stands."""
    if last_seq - database.filed.get(run, 0) < ROWS or not database.writable:
        return
    with database.filing:
        left = 0
        # A disk that is full only costs the next opening of the page some time.
        with contextlib.suppress(OSError):
            left = _append(database, run, path_of(database, run))
        database.filed[run] = last_seq - left


def file_anew(database: Database, run: str) -> None:
    """File whatever the table has beyond a run's file."""
    database.filed.pop(run, None)
    catch_up(database, run, sys.maxsize)
    database.filed.pop(run, None)


def size(database: Database, run: str) -> int:
    """Bytes of a run's file; 0 when there is none."""
    try:
        return path_of(database, run).stat().st_size
    except OSError:
        return 0


def _append(database: Database, run: str, path: Path) -> int:
    """Append whole blocks; returns how many rows are left over."""
    file = opened(database, run)
    valid, after = (file.blocks[-1].end, file.last_seq) if file else (0, 0)
    while len(rows := read(database, run, after, _AT_ONCE * ROWS)) >= ROWS:
        whole = len(rows) - len(rows) % ROWS
        packed = [series_file.pack(rows[start : start + ROWS].T) for start in range(0, whole, ROWS)]
        series_file.append(path, valid, packed)
        valid += sum(map(len, packed))
        after = int(rows[whole - 1, AT["seq"]])
    return len(rows)


def opened(database: Database, run: str) -> SeriesFile | None:
    """A run's file as far as the table bears it out; None when there is nothing in it."""
    path = path_of(database, run)
    file = series_file.open_file(path)
    while file is not None and not _borne_out(database, run, file):
        if not database.writable:
            return None
        with database.filing, contextlib.suppress(OSError):
            series_file.shorten(path, file.blocks[-2].end if len(file.blocks) > 1 else 0)
        file = series_file.open_file(path)
    return file


def _borne_out(database: Database, run: str, file: SeriesFile) -> bool:
    """Whether the last row of a file is in the table as it is."""
    kind = max(series_file.KINDS, key=lambda one: _last(file, one, "seq"))
    query = select(Point.step, Point.time).where(Point.run == run, Point.seq == file.last_seq)
    with database.read() as session:
        known = session.execute(query).first()
    return known is not None and tuple(known) == (_last(file, kind, "step"), _last(file, kind, "time"))


def _last(file: SeriesFile, kind: int, name: str) -> float:
    rows = file.rows[kind]
    return float(file.take(kind, name, np.array([rows - 1]))[0]) if rows else -1.0


def drop(database: Database, run: str) -> None:
    """Delete a run's file: its points are no longer what was filed, or it is damaged."""
    if database.writable:
        with database.filing:
            database.filed.pop(run, None)
            path_of(database, run).unlink(missing_ok=True)


def read(database: Database, run: str, after: int, most: int) -> Array:
    """At most so many points behind a seq, each a row; past the ORM, which would make an object of each."""
    with database.read() as session:
        driver = session.connection().connection.driver_connection
        if driver is None:
            return np.empty((0, len(COLUMNS)))
        cursor = driver.cursor()
        cursor.execute(_READ, (run, after, most))
        rows = cursor.fetchall()
        cursor.close()
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))
