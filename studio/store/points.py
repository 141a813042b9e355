"""The points of a run as columns of numbers, kept in step with the table.

A million rows take seconds to come out of SQLite, so they come out once: after that only rows behind the newest seq are
asked for. A long run's columns are kept in a file too (`cache/curves/<run>.npy`), which opens in a millisecond; it may
be deleted at any time. What a resumed run does again is dropped here as ingest drops it there: of a step, the last word
counts.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from studio.store.db import Database
from studio.store.tables import Event, Point

Array = NDArray[np.float64]
COLUMNS = (
    "seq", "time", "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s",
    "step_seconds", "memory", "token_accuracy",
)  # fmt: skip
_AT = {name: index for index, name in enumerate(COLUMNS)}
_FILED = 50_000  # rows from which reading the table again takes longer than a page should wait
_BATCH = 20_000
_HELD_BYTES = 384 * 2**20  # a run of a million points takes 104 MB


class Columns:
    """One run's points. A cell without a value is nan. Not for several threads at once: see Shelf."""

    def __init__(self, database: Database, run: str, folder: Path) -> None:
        self._database, self._run = database, run
        self._path = folder / f"{run}.npy"
        self._data: Array = np.empty((len(COLUMNS), 0))
        self.rows = 0
        self.cursor = 0  # everything up to this seq is in
        self.restarted = 0  # seq of the newest resume: cursors before it know points that are gone
        self._split: tuple[Table, Table] | None = None

    @property
    def nbytes(self) -> int:
        return int(self._data.nbytes)

    def refresh(self) -> None:
        """Take in what the table has since the last look."""
        if self.cursor == 0:
            self._open_file()
        before = self.rows
        resumed = self._resumes()
        for rows in _read(self._database, self._run, self.cursor):
            self._append(rows)
        for seq, step in resumed:
            seqs, steps = self._column("seq"), self._column("step")
            self._keep(~((seqs < seq) & (steps > step)))
            self.restarted = seq
        if self.rows:
            self.cursor = max(self.cursor, int(self._column("seq").max()), self.restarted)
        if self.rows != before or resumed:
            self._split = None
        if self.rows - before >= _FILED:
            self._write_file()

    def tables(self) -> tuple["Table", "Table"]:
        """Metric points and evaluation points, each with rising steps."""
        if self._split is None:
            evaluated = np.isfinite(self._column("eval_loss")) | (
                # An evaluation whose loss is no number, told from a step whose loss is none.
                np.isnan(self._column("loss")) & np.isnan(self._column("step_seconds"))
            )
            data = self._data[:, : self.rows]
            metrics = None if not evaluated.any() else np.flatnonzero(~evaluated)
            self._split = Table(data, _rising(data, metrics)), Table(data, _rising(data, np.flatnonzero(evaluated)))
        return self._split

    def _column(self, name: str) -> Array:
        return self._data[_AT[name], : self.rows]

    def _append(self, rows: Array) -> None:
        needed = self.rows + len(rows)
        if needed > self._data.shape[1]:
            grown = np.empty((len(COLUMNS), max(needed, int(self.rows * 1.5), 256)))
            grown[:, : self.rows] = self._data[:, : self.rows]
            self._data = grown
        self._data[:, self.rows : needed] = rows.T
        self.rows = needed

    def _keep(self, which: NDArray[np.bool_]) -> None:
        if not which.all():
            self._data = np.ascontiguousarray(self._data[:, : self.rows][:, which])
            self.rows = self._data.shape[1]

    def _resumes(self) -> list[tuple[int, int]]:
        query = (
            select(Event.seq, Event.step)
            .where(Event.run == self._run, Event.kind == "resumed", Event.seq > self.restarted)
            .order_by(Event.seq)
        )
        with self._database.read() as session:
            return [(seq, step or 0) for seq, step in session.execute(query)]

    def _open_file(self) -> None:
        """Begin with the filed columns if the table still has their last row."""
        with contextlib.suppress(OSError, ValueError):
            data = np.load(self._path, mmap_mode="c", allow_pickle=False)
            if data.ndim != 2 or len(data) != len(COLUMNS) or data.shape[1] == 0:
                return
            newest = int(data[_AT["seq"]].argmax())
            seq, step = int(data[_AT["seq"], newest]), int(data[_AT["step"], newest])
            query = select(Point.step).where(Point.run == self._run, Point.seq == seq)
            with self._database.read() as session:
                if session.scalar(query) == step:
                    self._data, self.rows, self.cursor = data, data.shape[1], seq

    def _write_file(self) -> None:
        """File the columns; a disk that is full only costs the next opening some seconds."""
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                np.save(file, self._data[:, : self.rows])
            aside.replace(self._path)
        except OSError:
            aside.unlink(missing_ok=True)


class Table:
    """Points of one kind by column name, with rising steps. A column is picked out when it is first asked for."""

    def __init__(self, data: Array, chosen: NDArray[np.intp] | None) -> None:
        self._data, self._chosen = data, chosen
        self._picked: dict[str, Array] = {}

    def __len__(self) -> int:
        return int(self._data.shape[1]) if self._chosen is None else len(self._chosen)

    def until(self, seq: int) -> "Table":
        """The points up to `seq`."""
        end = int(np.searchsorted(self["seq"], seq, side="right"))
        if end == len(self):
            return self
        return Table(self._data, np.arange(end) if self._chosen is None else self._chosen[:end])

    def __getitem__(self, name: str) -> Array:
        column: Array = self._data[_AT[name]]
        if self._chosen is None:
            return column
        if name not in self._picked:
            self._picked[name] = column[self._chosen]
        return self._picked[name]


class Shelf:
    """The columns of the runs that were looked at last, bounded by their bytes."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._held: OrderedDict[str, Columns] = OrderedDict()
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    def tables(self, run: str) -> tuple[Table, Table, int]:
        """Metric points, evaluation points, and the seq of the newest resume."""
        with self._lock:
            busy = self._busy.setdefault(run, threading.Lock())
        with busy:  # two pages that open the same run wait for one reading; other runs do not wait
            with self._lock:
                columns = self._held.get(run) or Columns(self._database, run, self._folder)
            columns.refresh()
            metrics, evals = columns.tables()
            found = metrics, evals, columns.restarted
        with self._lock:
            self._held[run] = columns
            self._held.move_to_end(run)
            while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > _HELD_BYTES:
                self._busy.pop(self._held.popitem(last=False)[0], None)
        return found


def _read(database: Database, run: str, after: int) -> list[Array]:
    """The rows behind `after`, in batches; past the ORM, which would make an object of each."""
    query = select(*(getattr(Point, name) for name in COLUMNS)).where(Point.run == run, Point.seq > after)
    found = []
    with database.read() as session:
        compiled = query.order_by(Point.seq).compile(dialect=session.get_bind().dialect)
        driver = session.connection().connection.driver_connection
        if driver is None:
            return []
        cursor = driver.cursor()
        cursor.execute(str(compiled), tuple(compiled.params[name] for name in compiled.positiontup or ()))
        while rows := cursor.fetchmany(_BATCH):
            found.append(np.array(rows, dtype=np.float64))
        cursor.close()
    return found


def _rising(data: Array, chosen: NDArray[np.intp] | None) -> NDArray[np.intp] | None:
    """The chosen points without those whose step comes again or lower later on: of a step, the last word counts."""
    steps = data[_AT["step"]] if chosen is None else data[_AT["step"]][chosen]
    if len(steps) < 2 or bool(np.all(steps[1:] > steps[:-1])):
        return chosen
    later = np.minimum.accumulate(steps[::-1])[::-1]
    kept = np.flatnonzero(np.append(steps[:-1] < later[1:], True))
    return kept if chosen is None else chosen[kept]
