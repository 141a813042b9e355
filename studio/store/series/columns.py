"""The points of a run as columns of numbers, in sync with the table.

Reading a million rows from SQLite takes seconds, so those of a long run are also in a file (file.py, sync.py), which is
memory-mapped instantly; only newer rows are read from the table and kept in memory. Points that a resumed run computes
again are dropped here as ingest drops them from the table: the last point of a step counts.
"""

import threading
from collections import OrderedDict
from typing import Protocol

import numpy as np

from studio.store.db import Database
from studio.store.series import file as series_file
from studio.store.series import sync as series_sync
from studio.store.series.file import AT, COLUMNS, KINDS, ROWS, Array, Damaged, Extremes, Index, SeriesFile

__all__ = ["COLUMNS", "Array", "ColumnCache", "Damaged", "Extremes", "Index", "Table"]
_BATCH = 20_000
_HELD_BYTES = 384 * 2**20
# Runs at every check for new points: plain SQL, since building the query costs ten times as much as running it.
_RESUMED = "SELECT max(seq) FROM events WHERE run = ? AND kind = 'resumed' AND seq > ?"


class Table(Protocol):
    """Points of one kind by column name, with increasing steps, in memory or mapped. nan: no value."""

    def __len__(self) -> int: ...

    def __getitem__(self, name: str) -> Array:
        """A whole column."""

    def take(self, name: str, rows: Index) -> Array:
        """Values of individual rows."""

    def part(self, name: str, first: int, last: int, sure: bool = True) -> Array:
        """Values of rows `first` to `last` (exclusive); if `sure`, with the crc checked when they are from a file."""

    def windows(self, name: str, ends: Index, reach: int) -> Array:
        """For each row, the values of the last `reach` rows up to it, 0 before the first row."""

    def extremes(self, name: str) -> Extremes | None:
        """The extremes of every 64 rows where available, as for long runs; else None."""


class Columns:
    """One run's points. Not thread-safe: see ColumnCache."""

    def __init__(self, database: Database, run: str) -> None:
        self._database, self._run = database, run
        self._begin()

    def _begin(self) -> None:
        self._file: SeriesFile | None = None
        self._tail: Array = np.empty((len(COLUMNS), 0))
        self.cursor = 0  # everything up to this seq is loaded
        self.restarted = 0  # seq of the newest resume: cursors before it refer to points that were dropped
        self._looked = False
        self._split: tuple[Table, Table] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory, with a share of the mapped file."""
        return int(self._tail.nbytes) + (0 if self._file is None else self._file.size // 16)

    def refresh(self) -> None:
        """Load the rows added to the table since the last refresh."""
        resumed = self._resumed()
        if resumed > self.restarted:
            # Points were deleted from the table, and perhaps from the file: start again.
            self._begin()
            self.restarted = resumed
        first_look = not self._looked
        if first_look or self._tail.shape[1] >= 2 * ROWS:
            self._open()
        news: list[Array] = []
        while len(rows := series_sync.read(self._database, self._run, self.cursor, _BATCH)):
            if first_look and not news and len(rows) >= 2 * ROWS:
                # Many rows are not in the file: a run of an older home, or one whose file was deleted.
                first_look = False
                series_sync.file_anew(self._database, self._run)
                self._open()
                continue
            news.append(rows.T)
            self.cursor = int(rows[-1, AT["seq"]])
        if news:
            self._tail = np.concatenate([self._tail, *news], axis=1)
            self._split = None

    def _open(self) -> None:
        """Open the current file; rows in memory beyond it stay."""
        self._looked = True
        if self._file is not None and series_sync.size(self._database, self._run) == self._file.size:
            return
        file = series_sync.opened(self._database, self._run)
        if file is None:
            return
        self._file, self._split = file, None
        self._tail = np.ascontiguousarray(self._tail[:, self._tail[AT["seq"]] > file.last_seq])
        self.cursor = max(self.cursor, file.last_seq)

    def tables(self) -> tuple[Table, Table]:
        """Metric points and evaluation points, each with increasing steps."""
        if self._split is None:
            evals = series_file.is_eval(self._tail)
            metric, evaluated = (self._table(kind, evals == bool(kind)) for kind in KINDS)
            self._split = metric, evaluated
        return self._split

    def _table(self, kind: int, chosen: "np.typing.NDArray[np.bool_]") -> Table:
        tail = self._tail if chosen.all() else np.ascontiguousarray(self._tail[:, chosen])
        if self._file is None:
            return ColumnsInMemory(tail, _rising(tail[AT["step"]]))
        table = MappedColumns(self._file, kind, tail)
        steps = table.extremes("step")
        if steps is not None and (steps.rises or not len(table)):
            return table
        data = np.array([table[name] for name in COLUMNS])
        return ColumnsInMemory(data, _rising(data[AT["step"]]))

    def _resumed(self) -> int:
        with self._database.read() as session:
            seq = session.connection().exec_driver_sql(_RESUMED, (self._run, self.restarted)).scalar()
        return seq or 0


class ColumnsInMemory:
    """A table in memory, for a short run or one with repeated steps."""

    def __init__(self, data: Array, chosen: Index | None) -> None:
        self._data, self._chosen = data, chosen
        self._picked: dict[str, Array] = {}

    def __len__(self) -> int:
        return int(self._data.shape[1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, name: str) -> Array:
        column: Array = self._data[AT[name]]
        if self._chosen is None:
            return column
        if name not in self._picked:
            self._picked[name] = column[self._chosen]
        return self._picked[name]

    def take(self, name: str, rows: Index) -> Array:
        return self[name][rows]

    def part(self, name: str, first: int, last: int, sure: bool = True) -> Array:
        return self[name][first:last]

    def windows(self, name: str, ends: Index, reach: int) -> Array:
        rows = ends[:, None] - np.arange(reach - 1, -1, -1)
        return np.where(rows >= 0, self[name][np.maximum(rows, 0)], 0.0)

    def extremes(self, name: str) -> None:
        return None


class MappedColumns:
    """A table in a file, followed by rows in memory that are not in it yet."""

    def __init__(self, file: SeriesFile, kind: int, tail: Array) -> None:
        self._file, self._kind, self._tail = file, kind, tail
        self._filed = file.rows[kind]
        self._extremes_of: dict[str, Extremes | None] = {}

    def __len__(self) -> int:
        return self._filed + int(self._tail.shape[1])

    def __getitem__(self, name: str) -> Array:
        return self.part(name, 0, len(self))

    def take(self, name: str, rows: Index) -> Array:
        tail = self._tail[AT[name]]
        if not len(tail):
            return self._file.take(self._kind, name, rows)
        filed = rows < self._filed
        values = np.empty(rows.shape)
        values[filed] = self._file.take(self._kind, name, rows[filed])
        values[~filed] = tail[rows[~filed] - self._filed]
        return values

    def windows(self, name: str, ends: Index, reach: int) -> Array:
        filed = int(np.searchsorted(ends, self._filed))
        rows = ends[filed:, None] - np.arange(reach - 1, -1, -1)
        tail = np.where(rows >= 0, self.take(name, np.maximum(rows, 0).ravel()).reshape(rows.shape), 0.0)
        return np.concatenate((self._file.windows(self._kind, name, ends[:filed], reach), tail))

    def part(self, name: str, first: int, last: int, sure: bool = True) -> Array:
        pieces = self._file.pieces(self._kind, name, first, min(last, self._filed), sure)
        if last > self._filed:
            pieces.append(self._tail[AT[name], max(0, first - self._filed) : last - self._filed])
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0), *pieces])

    def extremes(self, name: str) -> Extremes | None:
        if name not in self._extremes_of:
            self._extremes_of[name] = self._extremes(name)
        return self._extremes_of[name]

    def _extremes(self, name: str) -> Extremes | None:
        filed = self._file.extremes(self._kind, name)
        if not self._tail.shape[1] or filed is None:
            return filed
        new = series_file.extremes_of(self._tail[AT[name]], name, self._filed)
        if not self._filed:
            return new
        if not len(filed.first):  # no value so far
            return filed if new.finite == 0 else None
        meets = bool(new.low[0] > filed.high[-1] if name == "step" else new.low[0] >= filed.high[-1])
        both = [np.concatenate(pair) for pair in ((filed.low, new.low), (filed.high, new.high))]
        rows = [
            np.concatenate(pair)
            for pair in ((filed.first, new.first), (filed.low_at, new.low_at), (filed.high_at, new.high_at))
        ]
        rises = filed.rises and new.rises and meets
        return Extremes(rows[0], both[0], both[1], rows[1], rows[2], filed.finite + new.finite, rises)


class ColumnCache:
    """Cache of the columns of recently viewed runs, bounded by their size in bytes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: OrderedDict[str, Columns] = OrderedDict()
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    def tables(self, run: str) -> tuple[Table, Table, int, int]:
        """Metric points, evaluation points, the seq up to which all are loaded, and the seq of the newest resume."""
        with self._lock:
            busy = self._busy.setdefault(run, threading.Lock())
        with busy:  # pages that open the same run share one read; other runs do not wait
            with self._lock:
                columns = self._held.get(run) or Columns(self._database, run)
            columns.refresh()
            try:
                metrics, evals = columns.tables()
            except Damaged:
                columns = self._rebuilt(run)
                metrics, evals = columns.tables()
            result = metrics, evals, max(columns.cursor, columns.restarted), columns.restarted
        with self._lock:
            self._held[run] = columns
            self._held.move_to_end(run)
            while len(self._held) > 1 and sum(item.nbytes for item in self._held.values()) > _HELD_BYTES:
                self._busy.pop(self._held.popitem(last=False)[0], None)
        return result

    def forget(self, run: str) -> None:
        """Delete a run's damaged file, so that the next access rebuilds it."""
        series_sync.drop(self._database, run)
        with self._lock:
            self._held.pop(run, None)

    def _rebuilt(self, run: str) -> Columns:
        series_sync.drop(self._database, run)
        columns = Columns(self._database, run)
        columns.refresh()
        return columns


def _rising(steps: Array) -> Index | None:
    """Indices of rows with increasing steps: the last point of a step counts, earlier ones are dropped. None: all."""
    if len(steps) < 2 or bool(np.all(steps[1:] > steps[:-1])):
        return None
    later = np.minimum.accumulate(steps[::-1])[::-1]
    return np.flatnonzero(np.append(steps[:-1] < later[1:], True))
