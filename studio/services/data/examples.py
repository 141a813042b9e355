"""Examples of a dataset or of a checked file: as rows, token by token, and their lengths.

What is shown of an example comes from the code that builds the training data (dataset/tokens/encode.py).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.dataset import store as files
from studio.dataset.read.rows import FAULTS, Finding, Kind
from studio.dataset.record import Record, shown
from studio.dataset.tokens.counts import Counts
from studio.dataset.tokens.encode import Encoder, Refused, Whole
from studio.dataset.tokens.lengths import count, is_counted
from studio.dataset.tokens.remarks import MEANINGS, Remark
from studio.dataset.verdict import Verdict, remarked, unread, verdict
from studio.errors import BadInput
from studio.recipe import Recipe
from studio.services.core import jobs
from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets
from studio.services.data.datasets import DatasetInfo
from studio.services.models import models

# Up to this many examples are counted at once; more are counted by a child process, with progress.
_AT_ONCE = 2000
# Examples tried before a run starts, enough to see whether the template fits.
_TRIED = 100
_OF_LENGTH: tuple[Kind, ...] = ("untrained", "answer_cut", "cut")


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the model sees it. text: its decoded text; cut: beyond max_length, so never seen."""

    text: str
    id: int
    trained: bool
    special: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One example (its number from 1, and its row in the file), token by token: the trainer's ids and labels."""

    example: int
    row: int
    text: str
    tokens: list[Token]
    total: int
    trained: int
    cut: int
    note: str


@dataclass(frozen=True, slots=True)
class Found:
    """A finding and the number of its example; 0 when the row was left out."""

    finding: Finding
    example: int


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A page of findings; total: number of findings of the requested kinds."""

    items: list[Found]
    total: int


@dataclass(frozen=True, slots=True)
class Remarked:
    """A remark on several examples. serious: whether it keeps the dataset from being ready."""

    kind: str
    text: str
    fix: str
    serious: bool
    examples: int


@dataclass(frozen=True, slots=True)
class LengthView:
    """Lengths of the examples in tokens, and what max_length does to them.

    tokens: min, p50, p95, max, total and trained, before the cut. edges and counts: a histogram, counts[i] examples
    from edges[i] up to edges[i + 1]. rows_cut, tokens_lost, answers_lost, rows_untrained: at max_length. verdict: on
    file and lengths together. counts_by_kind: findings of all kinds, including those about length.
    """

    max_length: int
    tokens: dict[str, int]
    edges: list[int]
    counts: list[int]
    rows_cut: int
    tokens_lost: int
    answers_lost: int
    rows_untrained: int
    verdict: Verdict
    counts_by_kind: dict[str, int]
    examples: int
    refused: tuple[int, str]
    remarks: list[Remarked]
    left_out: int

    # Gradio detects a new value by its hash; the lists and dicts in this class have none.
    __hash__ = object.__hash__


def folder_of(studio: Studio, key: str) -> Path:
    """The folder of a dataset, by its id or name, or of a check, by its token."""
    if checks.is_here(studio, key):
        return checks.folder_of(studio, key)
    return datasets.folder_of(studio, key)


def rows(studio: Studio, key: str, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
    """A page of examples: number (from 1), row in the file, prompt and answer as plain text."""
    records = files.read_records(folder_of(studio, key), offset, limit)
    return [{"example": offset + at, **_as_row(record)} for at, record in enumerate(records, start=1)]


def tokens_of(
    studio: Studio, key: str, example: int, model_id: str, values: Mapping[str, Any] | None = None
) -> ExampleView:
    """What the model sees of an example (numbered from 1), under these recipe values."""
    recipe = Recipe().with_values(values or {})
    records = files.read_records(folder_of(studio, key), example - 1, 1) if example >= 1 else []
    if not records:
        raise BadInput(f"There is no example {example}; they are numbered from 1.")
    encoder = Encoder(models.folder_of(studio, model_id), recipe.data)
    encoded = encoder.encode(records)[-1]  # of several examples made from one conversation, the whole one
    length = recipe.data.max_length
    parts = len(encoded.split(length)) if recipe.data.split_texts else 1
    if parts > 1:
        length = len(encoded.input_ids)
    trained_at = {index for start, end in encoded.spans for index in range(start, end)}
    tokens = [
        Token(
            text,
            id_,
            trained=index in trained_at and index < length,
            special=id_ in encoder.special_ids,
            cut=index >= length,
        )
        for index, (text, id_) in enumerate(zip(encoder.pieces(encoded), encoded.input_ids, strict=True))
    ]
    trained = sum(token.trained for token in tokens)
    cut = sum(token.cut for token in tokens)
    split = f"It is split into {parts} examples." if parts > 1 else ""
    note = " ".join(filter(None, [_note(trained, cut, length), split, *_remarks_on(encoded)]))
    return ExampleView(example, records[0].row, encoded.text, tokens, len(tokens), trained, cut, note)


def try_out(studio: Studio, dataset: DatasetInfo, recipe: Recipe) -> None:
    """Raise BadInput when template, tokenizer and data do not fit: nothing of the first examples would be trained."""
    records = files.read_records(Path(dataset.path), 0, _TRIED)
    refused = Refused()
    counted = Encoder(models.folder_of(studio, recipe.model.model), recipe.data).count(records, refused)
    if any(start < recipe.data.max_length for item in counted for start, _ in item.spans):
        return
    if refused.total == len(records):
        raise BadInput(refused.rows[0][1])
    several = f"the first {len(records)} examples" if len(records) < dataset.rows else "the examples"
    raise BadInput(
        f"In {several} of {dataset.name} no answer is left within {recipe.data.max_length} tokens: raise max_length."
    )


def measuring(
    studio: Studio, key: str, model_id: str, values: Mapping[str, Any] | None = None
) -> Generator[Progress, None, LengthView]:
    """Count the tokens of all examples exactly, and report what max_length does to them.

    Counts are cached by dataset, tokenizer and template, so another max_length is quick.
    """
    recipe = Recipe().with_values(values or {})
    counts = yield from _counts(studio, key, model_id, recipe)
    length = recipe.data.max_length
    if recipe.data.split_texts:
        counts = counts.split(length)
    cut = counts.at(length)
    edges, bars = counts.histogram()
    of_file = _counts_of_file(studio, key)
    of_length: dict[str, int] = {
        kind: len(places) for kind, places in _cut_positions(counts, length).items() if len(places)
    }
    usable = files.size(folder_of(studio, key))
    remarks = counts.remark_counts()
    warnings = [*_unread(studio, key), *remarked(remarks)]
    first = counts.refused.rows[0] if counts.refused.rows else (0, "")
    if counts.refused.total:
        warnings.append(f"the template refuses {counts.refused.total:,} of them ({first[1].rstrip('.')})")
    return LengthView(
        length,
        counts.summary(),
        edges,
        bars,
        cut.rows_cut,
        cut.tokens_lost,
        cut.answers_lost,
        cut.rows_untrained,
        verdict(usable + files.left_out(of_file), usable, of_file, length, cut, warnings),
        {**of_file, **of_length},
        len(counts),
        (counts.refused.total, first[1]),
        [_remarked(remark, count) for remark, count in remarks.items()],
        int(counts.left_out.sum()),
    )


def _remarked(remark: Remark, count: int) -> Remarked:
    meaning = MEANINGS[remark]
    return Remarked(meaning.kind, meaning.text, meaning.fix, meaning.serious, count)


def _unread(studio: Studio, key: str) -> list[str]:
    """The parts of a verdict on what the file has and the studio does not read."""
    if checks.is_here(studio, key):
        report = checks.get(studio, key).report
        return unread(report.column_uses, report.key_uses)
    info = datasets.get(studio, key)
    return unread(info.column_uses, info.key_uses)


def measure(
    studio: Studio,
    key: str,
    model_id: str,
    values: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> LengthView:
    """Run `measuring` to its end."""
    return jobs.drive(measuring(studio, key, model_id, values), progress)


def findings(
    studio: Studio,
    key: str,
    kinds: Sequence[Kind] = (),
    offset: int = 0,
    limit: int = 50,
    lengths: tuple[str, Mapping[str, Any]] | None = None,
) -> FoundPage:
    """A page of findings about examples and left-out rows, of some kinds or all.

    lengths: model id and recipe values; with them, examples that are too long are included.
    """
    folder = folder_of(studio, key)
    wanted = kinds or tuple(FAULTS)
    of_file = [kind for kind in wanted if kind not in _OF_LENGTH]
    items, total = files.read_findings(folder, of_file, offset, limit) if of_file else ([], 0)
    at = files.places(folder, {(item.row, item.held_out) for item in items if not FAULTS[item.kind].left_out})
    page = [Found(item, at.get((item.row, item.held_out), 0)) for item in items]
    if lengths is None or not set(wanted) & set(_OF_LENGTH):
        return FoundPage(page, total)
    recipe = Recipe().with_values(lengths[1])
    counts = jobs.drive(_counts(studio, key, lengths[0], recipe), lambda *_: None)
    length = recipe.data.max_length
    if recipe.data.split_texts:
        counts = counts.split(length)
    long = [
        (kind, int(place))
        for kind, places in _cut_positions(counts, length).items()
        if kind in wanted
        for place in places
    ]
    records = counts.records()
    for kind, place in long[max(0, offset - total) :][: limit - len(page)]:
        page.append(Found(_length_finding(kind, counts, place, length), int(records[place]) + 1))
    return FoundPage(page, total + len(long))


def _cut_positions(counts: Counts, length: int) -> dict[Kind, Any]:
    """Positions (from 0) of the examples that max_length cuts, each under its most serious kind."""
    untrained = counts.untrained(length)
    lost = np.setdiff1d(counts.lost(length), untrained)
    return {"untrained": untrained, "answer_cut": lost, "cut": np.setdiff1d(counts.cut(length), [*untrained, *lost])}


def _length_finding(kind: Kind, counts: Counts, place: int, length: int) -> Finding:
    """A finding on what max_length, or the template, does to the example at position `place` (from 0)."""
    row, total, held_out = int(counts.rows[place]), int(counts.totals[place]), bool(counts.held_out[place])
    if total <= length:
        refused = dict(counts.refused.rows).get(row, "the template leaves nothing of it to train on")
        fix = "correct it, leave it out or choose another template"
        return Finding(row, kind, "", refused.rstrip("."), fix, held_out=held_out)
    lost = {
        "untrained": "none of its answer is left within",
        "answer_cut": "one of its answers is entirely beyond",
        "cut": f"{total - length:,} of them are beyond",
    }[kind]
    fix = f"raise max_length to {total:,}, shorten it or leave it out"
    return Finding(row, kind, "", f"has {total:,} tokens; {lost} max_length {length:,}", fix, held_out=held_out)


def _counts(studio: Studio, key: str, model_id: str, recipe: Recipe) -> Generator[Progress, None, Counts]:
    """Exact token counts: from the cache, counted at once, or counted by a child process."""
    folder, model = folder_of(studio, key), models.folder_of(studio, model_id)
    cache = studio.settings.cache / "tokens"
    if files.size(folder) > _AT_ONCE and not is_counted(folder, model, recipe.data, cache):
        order = {
            "task": "count",
            "dataset": str(folder),
            "model": str(model),
            "data": recipe.data.model_dump(),
            "cache": str(cache),
        }
        with checks.staged(studio) as work:
            yield from checks.work(studio, work, order, "the dataset")
    return count(folder, model, recipe.data, cache)


def _counts_of_file(studio: Studio, key: str) -> dict[str, int]:
    if checks.is_here(studio, key):
        return dict(checks.get(studio, key).report.counts)
    return dict(datasets.get(studio, key).findings)


def _as_row(record: Record) -> dict[str, Any]:
    if not record.messages:
        return {"row": record.row, "prompt": "", "answer": record.text, "held_out": record.held_out}
    *before, last = record.messages
    tools = ["tools: " + ", ".join(str(tool["function"]["name"]) for tool in record.tools)] if record.tools else []
    turns = [shown(before[0])] if len(before) == 1 else [f"{message['role']}: {shown(message)}" for message in before]
    prompt = "\n\n".join(tools + turns)
    return {"row": record.row, "prompt": prompt, "answer": shown(last), "held_out": record.held_out}


def _remarks_on(encoded: Whole) -> list[str]:
    """Sentences on what template and tokenizer do to an example."""
    found = [meaning for remark, meaning in MEANINGS.items() if remark in encoded.remarks]
    return [f"{meaning.text[:1].upper()}{meaning.text[1:]}." for meaning in found]


def _note(trained: int, cut: int, length: int) -> str:
    if trained == 0:
        return f"Nothing of the answer is left within {length} tokens: this example would be left out."
    if cut:
        return f"{cut} tokens are beyond {length} and are cut."
    return ""
