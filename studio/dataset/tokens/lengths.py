"""How many tokens the examples of a dataset have: exact, for every row, and kept on disk; of small ones the tokens too.

max_length is no part of what is kept: what a cut costs is worked out from the counts at once (counts.py). What it does
not do: render or tokenise (encode.py does), or know how it is kept (cache.py does).
"""

import functools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from studio.dataset.store import iter_records, read_records, size
from studio.dataset.tokens import cache as kept
from studio.dataset.tokens.counts import Counts, Ints
from studio.dataset.tokens.encode import Encoder, Refused, Tokenised
from studio.errors import BadInput
from studio.recipe.fields import Data

# Up to this many rows a form waits for exact counts; of more it takes the longest and an even sample.
_ALL = 2000
# Up to this many tokens of a dataset are kept themselves (4 bytes each): a run then begins seconds earlier. What has
# more trains for so long that it makes no difference.
_TOKENS_KEPT = 4_000_000
_LONGEST = 200


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
    counts = kept.read(kept.place_of(dataset_folder, model_folder, data, cache))
    if counts is not None:
        return counts
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
    path = None if cache is None else kept.place_of(dataset_folder, model_folder, data, cache)
    counts = None if path is None else kept.read(path)
    ids = None if path is None or counts is None else kept.read_tokens(path, counts)
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
        kept.write(kept.place_of(dataset_folder, model_folder, data, cache), *made.finish(refused))


def is_counted(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> bool:
    """Whether `count` will find its counts in `cache`."""
    return kept.place_of(dataset_folder, model_folder, data, cache).is_file()


def measure(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> Lengths:
    """Token lengths of a dataset as a model sees it, quickly enough for a form that answers while one types.

    Exact where they are counted already or the dataset is small; of others a sample. Raises BadInput when the template
    has no text for any row.
    """
    return _measure(kept.place_of(dataset_folder, model_folder, data, cache), dataset_folder, model_folder,
                    data.model_dump_json(include=set(kept.SHAPING)))  # fmt: skip


def _measure(path: Path, dataset_folder: Path, model_folder: Path, shaping: str) -> Lengths:
    if path.is_file():
        counts = _of_file(path, path.stat().st_mtime_ns)
        if counts is not None:
            return counts
    return _sampled(path, dataset_folder, model_folder, shaping)


@functools.lru_cache(maxsize=64)
def _of_file(path: Path, _changed: int) -> Lengths | None:
    counts = kept.read(path)
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
