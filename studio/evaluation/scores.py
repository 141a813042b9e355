"""From answers and losses to figures with intervals, and to the sentences that may be said of them.

A change is called better or worse only when its 95% interval leaves zero out and at least FEWEST rows differ: with
fewer, even a coin falls on one side more than once in twenty times (sign test: 2·0.5^6 = 0.03, 2·0.5^5 = 0.06).
Otherwise one cannot tell. Intervals are of each figure alone: of twenty without any change, one leaves zero out by
chance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from studio.evaluation import metrics
from studio.evaluation.bootstrap import Table, change, whole
from studio.evaluation.metrics import LOSS, OF_ANSWERS, PERPLEXITY, Metric, Unit
from studio.evaluation.prompts import Prompt

Word = Literal["better", "worse", "cannot tell"]
SetKind = Literal["held-out", "own", "general"]
BASE = "base"
FEWEST = 6


@dataclass(frozen=True, slots=True)
class Difference:
    """A column's figure less the base's, with its 95% interval. differ: rows in which the two are not alike."""

    value: float
    low: float
    high: float
    differ: int
    word: Word


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of a set: of each column, and how each differs from the base. counts: rows that have it, where each
    has it or not."""

    metric: str
    label: str
    about: str
    unit: Unit
    rows: int
    values: dict[str, float]
    counts: dict[str, int]
    differences: dict[str, Difference]


@dataclass(frozen=True, slots=True)
class SetScores:
    """All figures of one prompt set; sentences: what may be said of each column."""

    name: str
    title: str
    kind: SetKind
    prompts: int
    scores: list[Score]
    sentences: dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with each column's answer. ends: why each ended (end, length for one that was cut, too long)."""

    set: str
    prompt: Prompt
    answers: dict[str, str]
    ends: dict[str, str] = field(default_factory=dict)


def score_set(
    name: str, title: str, kind: SetKind, rows: Sequence[Row], losses: Mapping[str, Sequence[tuple[float, int]]]
) -> SetScores:
    """The figures of a set. losses: of each column, (sum, tokens) of each example, in the same order."""
    found = []
    tables = {column: np.asarray(pairs, dtype=np.float64) for column, pairs in losses.items() if pairs}
    # A loss that is no number says that a model is broken, and compares with nothing.
    if tables and all(np.isfinite(table).all() for table in tables.values()):
        found += [_score(LOSS, tables), _score(PERPLEXITY, tables)]
    for metric in OF_ANSWERS:
        tables = _tables(metric, rows)
        if tables:
            found.append(_score(metric, tables))
    columns = [column for column in (rows[0].answers if rows else losses) if column != BASE]
    sentences = {column: _sentence(kind, found, column) for column in columns}
    return SetScores(name, title, kind, len(rows), found, sentences)


def _tables(metric: Metric, rows: Iterable[Row]) -> dict[str, Table]:
    """Sums of the rows to which a figure applies, by column; whether it applies hangs on the prompt alone."""
    sums: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        for column, answer in row.answers.items():
            told = metric.of_row(row.prompt, answer)
            if told is not None:
                sums.setdefault(column, []).append(told)
    return {column: np.asarray(told, dtype=np.float64) for column, told in sums.items()}


def _score(metric: Metric, tables: Mapping[str, Table]) -> Score:
    values = {column: whole(table, metric.figure) for column, table in tables.items()}
    counts = {column: int(table[:, 0].sum()) for column, table in tables.items()} if metric.yes_or_no else {}
    base = tables.get(BASE)
    differences = {
        column: _difference(metric, base, table)
        for column, table in tables.items()
        if base is not None and column != BASE
    }
    rows = len(next(iter(tables.values())))
    return Score(metric.name, metric.label, metric.about, metric.unit, rows, values, counts, differences)


def _difference(metric: Metric, base: Table, table: Table) -> Difference:
    found = change(base, table, metric.figure)
    differ = int((base != table).any(axis=1).sum())
    word: Word = "cannot tell"
    if differ >= FEWEST and (found.low > 0 or found.high < 0):
        word = "better" if (found.low > 0) == metric.more_is_better else "worse"
    return Difference(found.value, found.low, found.high, differ, word)


def _sentence(kind: SetKind, scores: Sequence[Score], column: str) -> str:
    by_name = {score.metric: score for score in scores if column in score.differences}
    if kind == "general" and "check" in by_name:
        score = by_name["check"]
        word = score.differences[column].word
        return f"It answers {score.counts[column]} of {score.rows} as expected, before {score.counts[BASE]}: {word}."
    first = next((by_name[name] for name in ("check", "json_form", "rouge_l") if name in by_name), None)
    told = [_short(score, column) for score in (first, by_name.get("perplexity")) if score is not None]
    return " ".join(told) or "There is nothing here that a machine can compare: read the answers in the table."


def _short(score: Score, column: str) -> str:
    return f"{score.label} {describe(score, column)}, before {describe(score, BASE)}: {score.differences[column].word}."


def describe(score: Score, column: str) -> str:
    """A column's figure: `59 of 60`, or with its digits."""
    if score.counts:
        return f"{score.counts[column]} of {score.rows}"
    return metrics.format_value(metrics.ALL[score.metric], score.values[column])


def evidence(score: Score, column: str) -> str:
    """How sure a change is: the change, its interval, and of how many rows."""
    told = score.differences[column]
    scale, mark = (100, " points") if score.unit == "share" else (1, "")
    digits = 3 if score.unit == "number" else 1
    low, value, high = (f"{scale * one:+.{digits}f}" for one in (told.low, told.value, told.high))
    few = f"; only {told.differ} of {score.rows} differ" if told.differ < FEWEST else ""
    return f"{value}{mark}, 95% interval {low} to {high}, {score.rows} rows{few}"


def as_dict(found: SetScores) -> dict[str, Any]:
    """For JSON."""
    return asdict(found)


def from_dict(value: Mapping[str, Any]) -> SetScores:
    """What `as_dict` gave."""
    scores = [
        Score(**{**score, "differences": {key: Difference(**told) for key, told in score["differences"].items()}})
        for score in value["scores"]
    ]
    return SetScores(**{**value, "scores": scores})
