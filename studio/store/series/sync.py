"""Keep the column files of long runs (file.py) in sync with the table of points.

The table is authoritative. A file contains its first rows in blocks of 4096, written after the transaction that
ingested them; rows that a kill prevented from being written are read from the table next time. If a file's last row is
not in the table, since a resumed run went back before it, its last blocks are removed until it is.
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
    """Path of a run's file, which may not exist."""
    return database.curves / f"{run}.points"


def catch_up(database: Database, run: str, last_seq: int) -> None:
    """Append the table's rows to a run's file, if there is a full block of new ones. last_seq: newest ingested seq."""
    if last_seq - database.filed.get(run, 0) < ROWS or not database.writable:
        return
    with database.filing:
        left = 0
        # On a full disk the next opening of the page only takes longer.
        with contextlib.suppress(OSError):
            left = _append(database, run, path_of(database, run))
        database.filed[run] = last_seq - left


def file_anew(database: Database, run: str) -> None:
    """Append all full blocks that the table has beyond a run's file."""
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
    """Append full blocks; returns the number of remaining rows."""
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
    """Open a run's file, as far as it agrees with the table; None when nothing is left of it."""
    path = path_of(database, run)
    file = series_file.open_file(path)
    while file is not None and not _agrees(database, run, file):
        if not database.writable:
            return None
        with database.filing:
            try:
                series_file.shorten(path, file.blocks[-2].end if len(file.blocks) > 1 else 0)
            except OSError:  # as on a full disk: it is made again from the table
                path.unlink(missing_ok=True)
        file = series_file.open_file(path)
    return file


def _agrees(database: Database, run: str, file: SeriesFile) -> bool:
    """Whether the last row of a file is in the table with the same values."""
    kind = max(series_file.KINDS, key=lambda kind: _last(file, kind, "seq"))
    query = select(Point.step, Point.time).where(Point.run == run, Point.seq == file.last_seq)
    with database.read() as session:
        known = session.execute(query).first()
    return known is not None and tuple(known) == (_last(file, kind, "step"), _last(file, kind, "time"))


def _last(file: SeriesFile, kind: int, name: str) -> float:
    rows = file.rows[kind]
    return float(file.take(kind, name, np.array([rows - 1]))[0]) if rows else -1.0


def drop(database: Database, run: str) -> None:
    """Delete a run's file, because its points have changed or it is damaged."""
    if database.writable:
        with database.filing:
            database.filed.pop(run, None)
            path_of(database, run).unlink(missing_ok=True)


def read(database: Database, run: str, after: int, most: int) -> Array:
    """At most `most` points after a seq, one per row. Bypasses the ORM, which would create an object for each."""
    with database.read() as session:
        driver = session.connection().connection.driver_connection
        if driver is None:
            return np.empty((0, len(COLUMNS)))
        cursor = driver.cursor()
        cursor.execute(_READ, (run, after, most))
        rows = cursor.fetchall()
        cursor.close()
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))
