"""Column file with the points of a long run: blocks of columns with the extremes of every 64 rows.

The file is append-only, in blocks of 4096 rows, and is read through a memory map. A block has two parts, training
points and evaluations, each with its number of rows and the columns that have values:

    head     64 bytes: magic, its own crc, first and last seq, rows and columns of both parts, crcs of what follows
    extremes per part and column: count of finite values, whether they rise; per group minimum, maximum, both positions
    data     per part and column: the values, nan where there is none

The file is a cache: it may be deleted at any time. A torn last block is overwritten by the next writer. A block with a
damaged head or extremes ends the file there; one with damaged data raises Damaged when its rows are read. A file is
never truncated, since others may have it mapped: it is replaced by a shorter copy instead.
"""

import contextlib
import functools
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
COLUMNS = (
    "seq", "time", "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s",
    "step_seconds", "memory", "token_accuracy",
)  # fmt: skip
AT = {name: index for index, name in enumerate(COLUMNS)}
ROWS = 4096  # rows per block, and the most read from the table when a studio has just started
GROUP = 64  # rows that share one pair of extremes
KINDS = (0, 1)  # training points, evaluations
_MAGIC = b"LSP1"
_HEAD = struct.Struct("<4sIqqIIIIIII12x")
_STATS, _EXTREMES = 2, 3
_LIKELY = 24 * 1024  # bytes that nearly always contain a head and its extremes
assert _HEAD.size == 64


@dataclass(frozen=True, slots=True)
class Extremes:
    """Extremes of one column: for every group its first row, minimum and maximum, and the rows they are in.

    finite: number of finite values. rises: whether all values are finite and non-decreasing (steps: increasing).
    """

    first: Index
    low: Array
    high: Array
    low_at: Index
    high_at: Index
    finite: int
    rises: bool


class _Part(NamedTuple):  # thousands are created at once: a frozen dataclass takes three times as long
    """Position of one kind's rows in a block, counted in float64 from the start of the file."""

    start: int  # first row, counted over the whole run
    rows: int
    columns: tuple[int, ...]
    extremes: int
    data: int

    @property
    def groups(self) -> int:
        return -(-self.rows // GROUP)


class Block(NamedTuple):
    """One block: the seqs of its rows, its end, and the position and crc of its data."""

    first_seq: int
    last_seq: int
    end: int  # bytes
    data: tuple[tuple[int, int, int], ...]  # of each part: first byte, end, crc
    parts: tuple[_Part, _Part]


def is_eval(columns: Array) -> NDArray[np.bool_]:
    """Which rows are evaluations, including those with a non-finite loss (rows with neither loss nor step_seconds)."""
    evaluated = np.isfinite(columns[AT["eval_loss"]])
    none: NDArray[np.bool_] = np.isnan(columns[AT["loss"]]) & np.isnan(columns[AT["step_seconds"]])
    evaluations: NDArray[np.bool_] = evaluated | none
    return evaluations


def extremes_of(column: Array, name: str, start: int = 0) -> Extremes:
    """The extremes of a column whose first value is in row `start`."""
    stats, groups = _extremes(column, name)
    return _unpacked(np.arange(start, start + len(column), GROUP), groups, int(stats[0]), bool(stats[1]))


def _unpacked(first: Index, groups: Array, finite: int, rises: bool) -> Extremes:
    low_at, high_at = np.divmod(groups[2].astype(np.intp), GROUP)  # on integers: on floats it takes six times as long
    return Extremes(first, groups[0], groups[1], first + low_at, first + high_at, finite, rises)


def _extremes(column: Array, name: str) -> tuple[Array, Array]:
    """Extremes of a column as stored in a block: (finite, rises), and per group minimum, maximum and their positions
    combined in one number."""
    count = len(column)
    groups = -(-count // GROUP)
    finite = np.isfinite(column)
    below = np.full(groups * GROUP, np.inf)
    below[:count] = np.where(finite, column, np.inf)
    above = np.full(groups * GROUP, -np.inf)
    above[:count] = np.where(finite, column, -np.inf)
    lows, highs = below.reshape(groups, GROUP), above.reshape(groups, GROUP)
    low_at, high_at = lows.argmin(axis=1), highs.argmax(axis=1)
    rows = np.arange(groups)
    known = int(finite.sum())
    steps = np.diff(column)
    rises = known == count and bool((steps > 0).all() if name == "step" else (steps >= 0).all())
    return np.array([known, rises]), np.array([lows[rows, low_at], highs[rows, high_at], GROUP * low_at + high_at])


def pack(columns: Array) -> bytes:
    """Encode rows, in order of seq, as a block."""
    evals = is_eval(columns)
    heads: list[tuple[int, int]] = []
    extremes: list[bytes] = []
    data: list[bytes] = []
    for chosen in (~evals, evals):
        part = columns[:, chosen]
        present = [index for index in range(len(COLUMNS)) if not np.isnan(part[index]).all()] if part.shape[1] else []
        heads.append((part.shape[1], sum(1 << index for index in present)))
        pairs = [_extremes(part[index], COLUMNS[index]) for index in present]
        extremes += [b"".join(stats.astype("<f8").tobytes() for stats, _ in pairs)]
        extremes += [b"".join(groups.astype("<f8").tobytes() for _, groups in pairs)]
        data.append(part[present].astype("<f8").tobytes())
    seqs = columns[AT["seq"]]
    over = b"".join(extremes)
    (metrics, metric_mask), (evaluated, eval_mask) = heads

    def head(crc: int) -> bytes:
        return _HEAD.pack(_MAGIC, crc, int(seqs[0]), int(seqs[-1]), metrics, evaluated, metric_mask, eval_mask,
                          zlib.crc32(over), *map(zlib.crc32, data))  # fmt: skip

    return head(zlib.crc32(head(0))) + over + b"".join(data)


class Damaged(Exception):
    """The data of a block does not match its crc."""


class SeriesFile:
    """The intact blocks of a file. Raises OSError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks: list[Block] = []
        self._heads: list[
            Array
        ] = []  # head and extremes of each block, read since mapped they would fault page by page
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            rows = [0, 0]
            while (block := self._block(file.fileno(), self.blocks[-1].end if self.blocks else 0, rows)) is not None:
                self.blocks.append(block)
                rows = [count + part.rows for count, part in zip(rows, block.parts, strict=True)]
            usable = self.blocks[-1].end if self.blocks else 0
            self._bytes = memoryview(mmap.mmap(file.fileno(), usable, prot=mmap.PROT_READ) if usable else b"")
        self._flat: Array = np.frombuffer(self._bytes, "<f8")
        self._sound: set[tuple[int, int]] = set()  # blocks and parts whose data was verified
        self._extremes_of: dict[tuple[int, str], Extremes | None] = {}
        self._all: dict[int, _Stored] = {}  # by kind
        self._groups: dict[int, Index] = {}
        self._lock = threading.Lock()
        self.rows = tuple(rows)
        self.starts = [np.array([block.parts[kind].start for block in self.blocks], np.intp) for kind in KINDS]
        self._base = [self._bases(kind) for kind in KINDS]

    @property
    def last_seq(self) -> int:
        return self.blocks[-1].last_seq if self.blocks else 0

    def _block(self, file: int, at: int, rows: Sequence[int]) -> Block | None:
        """The block at a byte offset, if it is complete and its head and extremes match their crcs."""
        read = os.pread(file, _LIKELY, at)
        head = read[: _HEAD.size]
        if len(head) < _HEAD.size or head[:4] != _MAGIC:
            return None
        _, crc, first, last, metrics, evals, metric_mask, eval_mask, crc_over, *crcs = _HEAD.unpack(head)
        if zlib.crc32(head[:4] + bytes(4) + head[8:]) != crc:
            return None
        laid = _layout(metrics, evals, metric_mask, eval_mask)
        over_end, whole = 8 * laid.data[0], at + 8 * laid.end
        if len(read) < over_end:
            read += os.pread(file, over_end - len(read), at + len(read))
        if whole > self.size or zlib.crc32(memoryview(read)[_HEAD.size : over_end]) != crc_over:
            return None
        self._heads.append(np.frombuffer(read, "<f8", laid.data[0]))
        base = at // 8
        data = base + laid.data[0], base + laid.data[1]
        edges = (8 * data[0], 8 * data[1], whole)
        return Block(
            first, last, whole, ((edges[0], edges[1], crcs[0]), (edges[1], edges[2], crcs[1])),
            (_Part(rows[0], metrics, laid.held[0], laid.extremes[0], data[0]),
             _Part(rows[1], evals, laid.held[1], laid.extremes[1], data[1])),
        )  # fmt: skip

    def _bases(self, kind: int) -> NDArray[np.intp]:
        """Start of each column in each block; -1 where a block does not have the column."""
        bases = np.full((len(COLUMNS), len(self.blocks)), -1, np.intp)
        parts = [block.parts[kind] for block in self.blocks]
        data, rows = np.array([part.data for part in parts]), np.array([part.rows for part in parts])
        for columns in {part.columns for part in parts if part.columns}:
            numbers = [number for number, part in enumerate(parts) if part.columns == columns]
            bases[np.ix_(columns, numbers)] = data[numbers] + rows[numbers] * np.arange(len(columns))[:, None]
        return bases

    def take(self, kind: int, name: str, rows: Index) -> Array:
        """Values of a column in individual rows; the crc of their blocks is not checked."""
        number = np.searchsorted(self.starts[kind], rows, side="right") - 1
        base = self._base[kind][AT[name], number]
        if (base < 0).any():
            present = base >= 0
            partial = np.full(len(rows), np.nan)
            partial[present] = self._flat[base[present] + rows[present] - self.starts[kind][number[present]]]
            return partial
        values: Array = self._flat[base + rows - self.starts[kind][number]]
        return values

    def windows(self, kind: int, name: str, ends: Index, reach: int) -> Array:
        """For each row, the values of the last `reach` rows up to it, 0 before the first row; crcs are not checked."""
        number = np.searchsorted(self.starts[kind], ends, side="right") - 1
        base, start = self._base[kind][AT[name], number], self.starts[kind][number]
        within = (base >= 0) & (ends - start >= reach - 1)
        windows = np.empty((len(ends), reach))
        if within.any():
            views = np.lib.stride_tricks.sliding_window_view(self._flat, reach)
            windows[within] = views[(base + ends - start)[within] - reach + 1]
        rows = ends[~within, None] - np.arange(reach - 1, -1, -1)
        values = self.take(kind, name, np.maximum(rows, 0).ravel()).reshape(rows.shape)
        windows[~within] = np.where(rows >= 0, values, 0.0)
        return windows

    def pieces(self, kind: int, name: str, first: int, last: int, sure: bool = True) -> list[Array]:
        """Values of a column in rows `first` to `last` (exclusive); if `sure`, raises Damaged when a crc is wrong."""
        pieces: list[Array] = []
        number = max(0, int(np.searchsorted(self.starts[kind], first, side="right")) - 1)
        while number < len(self.blocks) and (part := self.blocks[number].parts[kind]).start < last:
            if sure:
                self._check(number, kind)
            low, high = max(0, first - part.start), min(part.rows, last - part.start)
            base = int(self._base[kind][AT[name], number])
            if high > low:
                pieces.append(np.full(high - low, np.nan) if base < 0 else self._flat[base + low : base + high])
            number += 1
        return pieces

    def _check(self, number: int, kind: int) -> None:
        if (number, kind) not in self._sound:
            start, end, crc = self.blocks[number].data[kind]
            if zlib.crc32(self._bytes[start:end]) != crc:
                raise Damaged(f"{self.path.name}, block {number}")
            self._sound.add((number, kind))

    def extremes(self, kind: int, name: str) -> Extremes | None:
        """The extremes of a column; None when only some of the blocks have the column."""
        with self._lock:
            if (kind, name) not in self._extremes_of:
                self._extremes_of[kind, name] = self._extremes(kind, AT[name])
            return self._extremes_of[kind, name]

    def _extremes(self, kind: int, column: int) -> Extremes | None:
        stored = self._all.get(kind)
        if stored is None:
            stored = self._all[kind] = _stored(self.blocks, self._heads, kind)
        if not stored.some[column]:
            none, nowhere = np.empty(0), np.empty(0, np.intp)
            return Extremes(nowhere, none, none, nowhere, nowhere, 0, False)
        if not stored.every[column]:
            return None
        if stored.together is not None:
            place = stored.parts[0][0].columns.index(column)
            stats, both = stored.together[0][:, place], stored.together[1][place]
        else:
            pairs = [_of_part(part, read) for part, read in stored.parts]
            places = [part.columns.index(column) for part, _ in stored.parts]
            stats = np.array([pair[0][place] for pair, place in zip(pairs, places, strict=True)])
            both = np.concatenate([pair[1][place] for pair, place in zip(pairs, places, strict=True)], axis=1)
        low, high = both[0], both[1]
        finite, rise = stats.sum(axis=0)
        rises = int(rise) == len(stats) and not bool((low[1:] < high[:-1]).any())
        if column == AT["step"]:
            rises = rises and not bool((low[1:] == high[:-1]).any())
        return _unpacked(self._firsts(kind), both, int(finite), rises)

    def _firsts(self, kind: int) -> Index:
        if kind not in self._groups:
            parts = [block.parts[kind] for block in self.blocks]
            self._groups[kind] = np.concatenate(
                [np.arange(part.start, part.start + part.rows, GROUP) for part in parts]
            )
        return self._groups[kind]


class _Layout(NamedTuple):
    """Layout of a block, counted in float64 from its start; pairs are for metric points and evaluations."""

    held: tuple[tuple[int, ...], tuple[int, ...]]  # columns
    extremes: tuple[int, int]
    data: tuple[int, int]
    end: int


@functools.lru_cache(4096)
def _layout(metrics: int, evals: int, metric_mask: int, eval_mask: int) -> _Layout:
    held = _columns(metric_mask), _columns(eval_mask)
    over = [
        len(columns) * (_STATS + _EXTREMES * -(-count // GROUP))
        for columns, count in zip(held, (metrics, evals), strict=True)
    ]
    start = _HEAD.size // 8
    data = start + sum(over)
    middle = data + len(held[0]) * metrics
    return _Layout(held, (start, start + over[0]), (data, middle), middle + len(held[1]) * evals)


def _columns(mask: int) -> tuple[int, ...]:
    return tuple(index for index in range(len(COLUMNS)) if mask >> index & 1)


def _of_part(part: _Part, read: Array) -> tuple[Array, Array]:
    """Stored extremes of each column of a part: (finite, rises), and those of the groups."""
    middle = part.extremes + _STATS * len(part.columns)
    end = middle + _EXTREMES * part.groups * len(part.columns)
    stats = read[part.extremes : middle].reshape(-1, _STATS)
    return stats, read[middle:end].reshape(len(part.columns), _EXTREMES, part.groups)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Stored extremes of one kind in all blocks.

    together: set where all blocks have the same columns: (finite, rises) of each block and column, and the groups'
    extremes of each column.
    """

    parts: list[tuple[_Part, Array]]
    some: NDArray[np.bool_]  # whether any block has a column
    every: NDArray[np.bool_]
    together: tuple[Array, Array] | None


def _stored(blocks: Sequence[Block], heads: Sequence[Array], kind: int) -> _Stored:
    parts = [(block.parts[kind], read) for block, read in zip(blocks, heads, strict=True)]
    parts = [(part, read) for part, read in parts if part.rows]
    kinds = {part.columns for part, _ in parts}
    present = np.array([np.isin(np.arange(len(COLUMNS)), columns) for columns in kinds or {()}])
    together = None
    if len(kinds) == 1:  # all columns at once: one by one takes ten times as long
        pairs = [_of_part(part, read) for part, read in parts]
        together = np.array([stats for stats, _ in pairs]), np.concatenate([groups for _, groups in pairs], axis=2)
    return _Stored(parts, np.asarray(present.any(axis=0)), np.asarray(present.all(axis=0)), together)


def open_file(path: Path) -> SeriesFile | None:
    """Open the file at a path; None when there is none or it has no intact block."""
    with contextlib.suppress(OSError, ValueError):
        file = SeriesFile(path)
        if file.blocks:
            return file
    return None


def append(path: Path, valid: int, blocks: Sequence[bytes]) -> None:
    """Write blocks after the first `valid` bytes of a file, over a torn tail. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(valid)
        file.write(b"".join(blocks))


def shorten(path: Path, valid: int) -> None:
    """Keep only the first `valid` bytes, in a copy that replaces the file: others may have it mapped."""
    if not valid:
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with path.open("rb") as source, aside.open("wb") as copy:
            while valid > 0 and (some := source.read(min(valid, 2**22))):
                copy.write(some)
                valid -= len(some)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
