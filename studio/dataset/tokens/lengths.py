"""Token counts of a dataset: exact, for every row, and cached on disk; for small datasets the tokens too.

max_length is not part of the cache key: the loss from a cut is computed directly from the counts (counts.py). Rendering
and tokenising are in encode.py, the cache format in cache.py.
"""

import functools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from studio.dataset.store import iter_records, read_records, size
from studio.dataset.tokens import cache as token_cache
from studio.dataset.tokens.counts import Counts, Ints
from studio.dataset.tokens.encode import Encoder, Refused, Tokenised
from studio.dataset.tokens.remarks import Remark
from studio.errors import BadInput
from studio.recipe.fields import Data

# Up to this many rows the form waits for exact counts; for more it uses the longest rows and an even sample.
_ALL = 2000
# Datasets of up to this many tokens have the tokens cached too (4 bytes each), so a run starts seconds earlier. Larger
# ones train for so long that it makes no difference.
_TOKENS_KEPT = 4_000_000
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens per example before the cut: longest, mean, and the share that is trained.

    exact: whether every row was counted.
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
    """Count the tokens of every row of a dataset for this model, or read the counts from the folder `cache`.

    progress: called with (done, of) rows while counting.
    """
    counts = token_cache.read(token_cache.place_of(dataset_folder, model_folder, data, cache))
    if counts is not None:
        return counts
    accumulator, refused = _Growing(), Refused()
    for _ in _pass(dataset_folder, model_folder, data, cache, (accumulator, refused), progress):
        pass
    return accumulator.finish(refused)[0]


def tokenised(
    dataset_folder: Path,
    model_folder: Path,
    data: Data,
    cache: Path | None,
    refused: Refused,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tokenised]:
    """Yield every row in order, from the folder `cache` or tokenised now and then cached there.

    Refused rows have no tokens and are added to `refused`.
    """
    path = None if cache is None else token_cache.place_of(dataset_folder, model_folder, data, cache)
    counts = None if path is None else token_cache.read(path)
    ids = None if path is None or counts is None else token_cache.read_tokens(path, counts)
    if counts is None or ids is None:
        for chunk in _pass(dataset_folder, model_folder, data, cache, (_Growing(), refused), progress):
            yield from chunk
        return
    refused.rows, refused.total = counts.refused.rows, counts.refused.total
    starts, ends, offsets = counts.starts.tolist(), counts.ends.tolist(), counts.offsets.tolist()
    columns = (counts.rows, counts.totals, counts.held_out, counts.remarks, counts.left_out)
    at = 0
    for place, (row, total, held_out, remarks, left_out) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        spans = tuple((starts[i], ends[i]) for i in range(offsets[place], offsets[place + 1]))
        yield Tokenised(row, ids[at : at + total].tolist(), spans, held_out, Remark(remarks), left_out)
        at += total


def _pass(
    dataset_folder: Path,
    model_folder: Path,
    data: Data,
    cache: Path | None,
    results: tuple["_Growing", Refused],
    progress: Callable[[int, int], None] | None,
) -> Iterator[list[Tokenised]]:
    """Tokenise every row, chunk by chunk, and write the counts to the cache at the end."""
    of = size(dataset_folder)
    accumulator, refused = results
    for chunk in Encoder(model_folder, data).count_all(iter_records(dataset_folder), refused):
        accumulator.add(chunk)
        yield chunk
        if progress is not None:
            progress(len(accumulator), of)
    if cache is not None:
        token_cache.write(token_cache.place_of(dataset_folder, model_folder, data, cache), *accumulator.finish(refused))


def is_counted(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> bool:
    """Whether `count` can read its counts from `cache`."""
    return token_cache.place_of(dataset_folder, model_folder, data, cache).is_file()


def measure(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> Lengths:
    """Token lengths of a dataset for a model, fast enough for a form that updates as the user types.

    Exact where the counts are cached or the dataset is small; estimated from a sample otherwise. Raises BadInput when
    the template refuses every row.
    """
    return _measure(token_cache.place_of(dataset_folder, model_folder, data, cache), dataset_folder, model_folder,
                    data.model_dump_json(include=set(token_cache.SHAPING)),
                    data.max_length if data.split_texts else 0)  # fmt: skip


def _measure(path: Path, dataset_folder: Path, model_folder: Path, shaping: str, split: int) -> Lengths:
    if path.is_file():
        counts = _of_file(path, path.stat().st_mtime_ns, split)
        if counts is not None:
            return counts
    return _sampled(path, dataset_folder, model_folder, shaping, split)


@functools.lru_cache(maxsize=64)
def _of_file(path: Path, _changed: int, split: int) -> Lengths | None:
    counts = token_cache.read(path)
    return None if counts is None else _lengths(counts, split)


@functools.lru_cache(maxsize=64)
def _sampled(path: Path, dataset_folder: Path, model_folder: Path, shaping: str, split: int) -> Lengths:
    """Lengths from a sample; cached, since datasets never change. split: as in `_lengths`."""
    data = Data.model_validate_json(shaping)
    encoder, refused = Encoder(model_folder, data), Refused()
    records = list(encoder.examples(read_records(dataset_folder)))
    if len(records) <= _ALL:
        return _lengths(count(dataset_folder, model_folder, data, path.parent), split)

    def characters(index: int) -> int:
        record = records[index]
        return len(record.text) + sum(len(message["content"]) for message in record.messages)

    by_size = sorted(range(len(records)), key=characters, reverse=True)
    accumulator = _Growing()
    sample = records[:: max(1, len(records) // _ALL)]
    accumulator.add(encoder.count(sample, refused))
    lengths = _lengths(accumulator.finish(refused)[0], split)
    parts = max(1.0, lengths.rows / max(1, len(sample)))
    top = max(
        (len(item.input_ids) for item in encoder.count([records[i] for i in by_size[:_LONGEST]], refused)), default=0
    )
    held_out = sum(record.held_out for record in records)
    longest = max(top if not split else min(top, split), lengths.longest)
    rows = round(parts * len(records))
    return replace(lengths, rows=rows, held_out=round(parts * held_out), longest=longest, exact=False)


def _lengths(counts: Counts, split: int = 0) -> Lengths:
    """The lengths of all examples. split: tokens at which plain texts are split; 0 if they are not."""
    if split:
        counts = counts.split(split)
    known = int((counts.totals > 0).sum())
    if not known:
        row, reason = counts.refused.rows[0] if counts.refused.rows else (0, "it has no rows")
        raise BadInput(f"The template has no text for any of the examples. Row {row}: {reason}")
    summary = counts.summary()
    return Lengths(
        rows=known,
        held_out=int(counts.held_out[counts.totals > 0].sum()),
        longest=summary["max"],
        mean=summary["total"] / known,
        trained_share=summary["trained"] / max(1, summary["total"]),
        exact=True,
    )


class _Growing:
    """Accumulator of counts, 4 bytes per number, for millions of rows. Also keeps the tokens while they are few."""

    def __init__(self) -> None:
        self._ids: array[int] | None = array("i")
        self._rows, self._totals, self._offsets = array("i"), array("i"), array("i", [0])
        self._starts, self._ends = array("i"), array("i")
        self._remarks, self._left_out = array("i"), array("i")
        self._held_out = bytearray()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, counted: Iterable[Tokenised]) -> None:
        for item in counted:
            self._rows.append(item.row)
            self._totals.append(len(item.input_ids))
            self._held_out.append(item.held_out)
            self._remarks.append(item.remarks)
            self._left_out.append(item.left_out)
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
        shapes = (self._rows, self._totals, self._offsets, self._starts, self._ends, self._remarks, self._left_out)
        rows, totals, offsets, starts, ends, remarks, left_out = (np.array(item, dtype=np.int32) for item in shapes)
        ids = None if self._ids is None else np.array(self._ids, dtype=np.int32)
        return Counts(rows, totals, held_out, offsets, starts, ends, remarks, left_out, refused), ids
