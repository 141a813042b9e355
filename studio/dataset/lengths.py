"""How many tokens the examples of a dataset have: exact, for every row, and kept on disk; of small ones the tokens too.

max_length is no part of what is kept: what a cut costs is worked out from the counts at once. What it does not do:
render or tokenise (encode.py does).
"""

import functools
import glob
import hashlib
import json
import os
import tempfile
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from studio.dataset import template as templates
from studio.dataset.encode import Encoder, Refused, Tokenised
from studio.dataset.store import iter_records, read_records, size
from studio.errors import BadInput
from studio.rundir import read_json
from studio.themes import Data

_FORMAT = 2  # of the kept files; another number makes all of them anew
# Up to this many rows a form waits for exact counts; of more it takes the longest and an even sample.
_ALL = 2000
# Up to this many tokens of a dataset are kept themselves (4 bytes each): a run then begins seconds earlier. What has
# more trains for so long that it makes no difference.
_TOKENS_KEPT = 4_000_000
_LONGEST = 200
_NAMED = 32  # characters of a dataset's folder by which its kept files are named

# The fields of the recipe that shape an example's text and what of it is trained.
_SHAPING = ("template", "custom_template", "system_prompt", "train_on")
_ENDS_IN = ("generation_config.json", "config.json")
_IDS = "ids"  # tokens of all rows, where they are kept: read only by who wants them
_ARRAYS = ("rows", "totals", "held_out", "offsets", "starts", "ends")

Ints = NDArray[np.int32]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cut:
    """What is lost beyond max_length tokens.

    tokens_lost: tokens beyond it; trained_lost: the trained ones of them; answers_lost: answers of which no token is
    left; rows_untrained: rows without any trained token left, which are dropped.
    """

    rows_cut: int
    tokens_lost: int
    trained_lost: int
    answers_lost: int
    rows_untrained: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts of a dataset's n rows, each at its place in the dataset.

    rows: their numbers; totals: tokens before the cut, 0 for a row that the template refuses; held_out: what the
    dataset itself holds out. The trained ranges of tokens of the row at place i (from 0) are
    starts[offsets[i]:offsets[i + 1]] to ends[…], one for each answer.
    """

    rows: Ints
    totals: Ints
    held_out: Flags
    offsets: Ints
    starts: Ints
    ends: Ints
    refused: Refused = field(default_factory=Refused)

    def __len__(self) -> int:
        return len(self.rows)

    def summary(self) -> dict[str, int]:
        """Tokens of a row (min, p50, p95, max) and of all of them (total, trained)."""
        known = self._known
        if not len(known):
            return dict.fromkeys(("min", "p50", "p95", "max", "total", "trained"), 0)
        low, middle, high, top = np.percentile(known, [0, 50, 95, 100], method="inverted_cdf")
        return {
            "min": int(low),
            "p50": int(middle),
            "p95": int(high),
            "max": int(top),
            "total": int(known.sum(dtype=np.int64)),
            "trained": int((self.ends - self.starts).sum(dtype=np.int64)),
        }

    def histogram(self, bins: int = 40) -> tuple[list[int], list[int]]:
        """Rows by length: at most `bins` ranges of equal width, one edge more than there are counts."""
        known = self._known
        if not len(known):
            return [0, 1], [0]
        low, high = int(known.min()), int(known.max())
        width = -(-(high - low + 1) // bins)
        edges = list(range(low, high + width + 1, width))
        counts = np.bincount((known - low) // width, minlength=len(edges) - 1)
        return edges, [int(count) for count in counts]

    def at(self, max_length: int) -> Cut:
        """What examples of at most `max_length` tokens lose."""
        beyond = np.maximum(self.totals.astype(np.int64) - max_length, 0)
        lost = np.maximum(self.ends.astype(np.int64) - np.maximum(self.starts, max_length), 0)
        return Cut(
            rows_cut=int((beyond > 0).sum()),
            tokens_lost=int(beyond.sum()),
            trained_lost=int(lost.sum()),
            answers_lost=int((self.starts >= max_length).sum()),
            rows_untrained=len(self.untrained(max_length)),
        )

    def cut(self, max_length: int) -> Places:
        """Places (from 0) of the rows that have tokens beyond `max_length`."""
        return np.flatnonzero(self.totals > max_length)

    def lost(self, max_length: int) -> Places:
        """Places of the rows that lose an answer entirely."""
        return np.flatnonzero(self._per_row(self.starts >= max_length))

    def untrained(self, max_length: int) -> Places:
        """Places of the rows that keep no trained token, those that are refused among them."""
        return np.flatnonzero(self._per_row(self.starts < max_length) == 0)

    @property
    def _known(self) -> Ints:
        """Totals of the rows that have a text."""
        return self.totals[self.totals > 0]

    def _per_row(self, answers: Flags) -> NDArray[np.int64]:
        """How many of a row's answers are marked, for each row."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(answers, dtype=np.int64)])
        found: NDArray[np.int64] = np.diff(before[self.offsets])
        return found


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of an example before the cut: the longest, the mean, and the share of them that is trained.

    `exact` when every row was counted.
    """

    rows: int
    held_out: int
    longest: int
    mean: float
    trained_share: float
    exact: bool


def count(
    dataset_folder: Path,
    model_folder: Path,
    data: Data,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """Counts of every row of a dataset as this model sees it, from the folder `cache` if they are kept there.

    progress: called with (done, of) rows while counting.
    """
    kept = _load(_kept_at(dataset_folder, model_folder, data, cache))
    if kept is not None:
        return kept
    made, refused = _Growing(), Refused()
    for _ in _pass(dataset_folder, model_folder, data, cache, (made, refused), progress):
        pass
    return made.finish(refused)[0]


def tokenised(
    dataset_folder: Path,
    model_folder: Path,
    data: Data,
    cache: Path | None,
    refused: Refused,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tokenised]:
    """Every row in order, without tokens where it is refused, which is noted: from the folder `cache`, or made now and
    kept there for the next time."""
    path = None if cache is None else _kept_at(dataset_folder, model_folder, data, cache)
    counts = None if path is None else _load(path)
    ids = None if path is None or counts is None else _load_ids(path, counts)
    if counts is None or ids is None:
        for chunk in _pass(dataset_folder, model_folder, data, cache, (_Growing(), refused), progress):
            yield from chunk
        return
    refused.rows, refused.total = counts.refused.rows, counts.refused.total
    starts, ends, offsets = counts.starts.tolist(), counts.ends.tolist(), counts.offsets.tolist()
    rows = zip(counts.rows.tolist(), counts.totals.tolist(), counts.held_out.tolist(), strict=True)
    at = 0
    for place, (row, total, held_out) in enumerate(rows):
        spans = tuple((starts[one], ends[one]) for one in range(offsets[place], offsets[place + 1]))
        yield Tokenised(row, ids[at : at + total].tolist(), spans, held_out)
        at += total


def forget(dataset_folder: Path, cache: Path) -> None:
    """Delete what is kept of a dataset that goes."""
    for path in cache.glob(f"{glob.escape(dataset_folder.name[:_NAMED])}-*.npz"):
        path.unlink(missing_ok=True)


def _pass(
    dataset_folder: Path,
    model_folder: Path,
    data: Data,
    cache: Path | None,
    noted: tuple["_Growing", Refused],
    progress: Callable[[int, int], None] | None,
) -> Iterator[list[Tokenised]]:
    """Tokenise every row, chunk by chunk; what is counted on the way is kept at the end."""
    of = size(dataset_folder)
    made, refused = noted
    for chunk in Encoder(model_folder, data).count_all(iter_records(dataset_folder), refused):
        made.add(chunk)
        yield chunk
        if progress is not None:
            progress(len(made), of)
    if cache is not None:
        _save(_kept_at(dataset_folder, model_folder, data, cache), *made.finish(refused))


def is_counted(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> bool:
    """Whether `count` will find its counts in `cache`."""
    return _kept_at(dataset_folder, model_folder, data, cache).is_file()


def measure(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> Lengths:
    """Token lengths of a dataset as a model sees it, quickly enough for a form that answers while one types.

    Exact where they are counted already or the dataset is small; of others a sample. Raises BadInput when the template
    has no text for any row.
    """
    return _measure(_kept_at(dataset_folder, model_folder, data, cache), dataset_folder, model_folder,
                    data.model_dump_json(include=set(_SHAPING)))  # fmt: skip


def _measure(path: Path, dataset_folder: Path, model_folder: Path, shaping: str) -> Lengths:
    if path.is_file():
        counts = _of_file(path, path.stat().st_mtime_ns)
        if counts is not None:
            return counts
    return _sampled(path, dataset_folder, model_folder, shaping)


@functools.lru_cache(maxsize=64)
def _of_file(path: Path, _changed: int) -> Lengths | None:
    counts = _load(path)
    return None if counts is None else _lengths(counts)


@functools.lru_cache(maxsize=64)
def _sampled(path: Path, dataset_folder: Path, model_folder: Path, shaping: str) -> Lengths:
    """Datasets never change, so neither does the answer: it is kept."""
    data = Data.model_validate_json(shaping)
    records = read_records(dataset_folder)
    if len(records) <= _ALL:
        return _lengths(count(dataset_folder, model_folder, data, path.parent))
    encoder, refused = Encoder(model_folder, data), Refused()

    def characters(index: int) -> int:
        record = records[index]
        return len(record.text) + sum(len(message["content"]) for message in record.messages)

    by_size = sorted(range(len(records)), key=characters, reverse=True)
    made = _Growing()
    sample = records[:: max(1, len(records) // _ALL)]
    made.add(encoder.count(sample, refused))
    found = _lengths(made.finish(refused)[0])
    top = max(
        (len(item.input_ids) for item in encoder.count([records[i] for i in by_size[:_LONGEST]], refused)), default=0
    )
    held_out = sum(record.held_out for record in records)
    return replace(found, rows=len(records), held_out=held_out, longest=max(top, found.longest), exact=False)


def _lengths(counts: Counts) -> Lengths:
    known = int((counts.totals > 0).sum())
    if not known:
        row, reason = counts.refused.rows[0] if counts.refused.rows else (0, "it has no rows")
        raise BadInput(f"The template has no text for any of the examples. Row {row}: {reason}")
    told = counts.summary()
    return Lengths(
        rows=known,
        held_out=int(counts.held_out[counts.totals > 0].sum()),
        longest=told["max"],
        mean=told["total"] / known,
        trained_share=told["trained"] / max(1, told["total"]),
        exact=True,
    )


class _Growing:
    """Counts as they come; four bytes a number, for millions of rows. The tokens too, while they are few enough."""

    def __init__(self) -> None:
        self._ids: array[int] | None = array("i")
        self._rows, self._totals, self._offsets = array("i"), array("i"), array("i", [0])
        self._starts, self._ends = array("i"), array("i")
        self._held_out = bytearray()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, counted: Iterable[Tokenised]) -> None:
        for item in counted:
            self._rows.append(item.row)
            self._totals.append(len(item.input_ids))
            self._held_out.append(item.held_out)
            if self._ids is not None:
                self._ids.extend(item.input_ids)
            for start, end in item.spans:
                self._starts.append(start)
                self._ends.append(end)
            self._offsets.append(len(self._starts))
        if self._ids is not None and len(self._ids) > _TOKENS_KEPT:
            self._ids = None

    def finish(self, refused: Refused) -> tuple[Counts, Ints | None]:
        held_out = np.frombuffer(bytes(self._held_out), dtype=np.bool_)
        numbers = (self._rows, self._totals, self._offsets, self._starts, self._ends)
        rows, totals, offsets, starts, ends = (np.array(values, dtype=np.int32) for values in numbers)
        ids = None if self._ids is None else np.array(self._ids, dtype=np.int32)
        return Counts(rows, totals, held_out, offsets, starts, ends, refused), ids


def _kept_at(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> Path:
    """Where counts are kept: the name holds all that they depend on. A dataset's folder is named by its content."""
    source = data.own_chat_template or (templates.template_source(model_folder) if data.template == "chat" else "")
    parts = [
        _FORMAT,
        _hash_of(model_folder / "tokenizer.json"),
        source,
        templates.special_tokens(model_folder),
        [
            (read_json(model_folder / name) or {}).get("eos_token_id")
            for name in ("generation_config.json", "config.json")
        ],
        data.model_dump(mode="json", include=set(_SHAPING)),
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache / f"{dataset_folder.name[:_NAMED]}-{key[:32]}.npz"


def _hash_of(path: Path) -> str:
    try:
        known = path.stat()
    except OSError:
        return ""  # the encoder says what is missing
    return _hashed(path, known.st_size, known.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _changed: int) -> str:
    """Tokenizer files have megabytes: each is hashed once, until it changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(path: Path, counts: Counts, ids: Ints | None) -> None:
    """Written aside, then renamed: a kept file is whole. A disk that is full or read-only only costs the next count."""
    told = json.dumps({"total": counts.refused.total, "rows": counts.refused.rows}).encode()
    arrays = {name: getattr(counts, name) for name in _ARRAYS} | ({} if ids is None else {_IDS: ids})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".counts-", suffix=".tmp", delete=False) as file:
            aside = Path(file.name)
            try:
                np.savez(file, refused=np.frombuffer(told, dtype=np.uint8), **arrays)
                file.close()
                os.replace(aside, path)  # noqa: PTH105 - the one that replaces on every system
            finally:
                aside.unlink(missing_ok=True)
    except OSError:
        return


def _load(path: Path) -> Counts | None:
    """Kept counts; None when there are none, or none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            told = json.loads(bytes(file["refused"]))
            refused = Refused([(int(row), str(reason)) for row, reason in told["rows"]], int(told["total"]))
            counts = Counts(**arrays, refused=refused)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    fits = len(counts.offsets) == len(counts) + 1 and len(counts.starts) == len(counts.ends) == counts.offsets[-1]
    return counts if fits and len(counts.totals) == len(counts.held_out) == len(counts) else None


def _load_ids(path: Path, counts: Counts) -> Ints | None:
    """The tokens that belong to kept counts; None where they are not kept, or not whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids: Ints = file[_IDS]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return ids if ids.dtype == np.int32 and len(ids) == int(counts.totals.sum(dtype=np.int64)) else None
