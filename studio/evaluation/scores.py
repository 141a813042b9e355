"""Compute figures with intervals from answers and losses, and the sentences that describe them.

A change is called better or worse only when its 95% interval excludes zero and at least FEWEST rows differ: with fewer,
even a fair coin lands on one side more than once in twenty times (sign test: 2·0.5^6 = 0.03, 2·0.5^5 = 0.06).
Otherwise the word is "cannot tell". Intervals are not corrected for multiple figures: of twenty without any change, one
excludes zero by chance.
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
    """A column's figure minus the base's, with its 95% interval. differ: number of rows in which the two differ."""

    value: float
    low: float
    high: float
    differ: int
    word: Word


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of a set: the figure of each column, and its difference from the base.

    counts: number of rows that meet a yes-or-no metric; empty for others.
    """

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
    """All scores of one prompt set. sentences: a summary of each column."""

    name: str
    title: str
    kind: SetKind
    prompts: int
    scores: list[Score]
    sentences: dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with each column's answer. ends: why each ended (end, length when it was cut, too long)."""

    set: str
    prompt: Prompt
    answers: dict[str, str]
    ends: dict[str, str] = field(default_factory=dict)


def score_set(
    name: str, title: str, kind: SetKind, rows: Sequence[Row], losses: Mapping[str, Sequence[tuple[float, int]]]
) -> SetScores:
    """Compute the scores of a set. losses: for each column, (sum, tokens) of each example, in the same order."""
    scores = []
    tables = {column: np.asarray(pairs, dtype=np.float64) for column, pairs in losses.items() if pairs}
    # A loss that is not finite means that a model is broken; it cannot be compared.
    if tables and all(np.isfinite(table).all() for table in tables.values()):
        scores += [_score(LOSS, tables), _score(PERPLEXITY, tables)]
    for metric in OF_ANSWERS:
        tables = _tables(metric, rows)
        if tables:
            scores.append(_score(metric, tables))
    columns = [column for column in (rows[0].answers if rows else losses) if column != BASE]
    sentences = {column: _sentence(kind, scores, column) for column in columns}
    return SetScores(name, title, kind, len(rows), scores, sentences)


def _tables(metric: Metric, rows: Iterable[Row]) -> dict[str, Table]:
    """Sums of the rows a metric applies to, by column; whether it applies depends on the prompt alone."""
    sums: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        for column, answer in row.answers.items():
            values = metric.of_row(row.prompt, answer)
            if values is not None:
                sums.setdefault(column, []).append(values)
    return {column: np.asarray(values, dtype=np.float64) for column, values in sums.items()}


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
    interval = change(base, table, metric.figure)
    differ = int((base != table).any(axis=1).sum())
    word: Word = "cannot tell"
    if differ >= FEWEST and (interval.low > 0 or interval.high < 0):
        word = "better" if (interval.low > 0) == metric.more_is_better else "worse"
    return Difference(interval.value, interval.low, interval.high, differ, word)


def _sentence(kind: SetKind, scores: Sequence[Score], column: str) -> str:
    by_name = {score.metric: score for score in scores if column in score.differences}
    if kind == "general" and "check" in by_name:
        score = by_name["check"]
        word = score.differences[column].word
        return f"It answers {score.counts[column]} of {score.rows} as expected, before {score.counts[BASE]}: {word}."
    first = next((by_name[name] for name in ("check", "json_form", "rouge_l") if name in by_name), None)
    parts = [_short(score, column) for score in (first, by_name.get("perplexity")) if score is not None]
    return " ".join(parts) or "No metric applies to these prompts: read the answers in the table."


def _short(score: Score, column: str) -> str:
    return f"{score.label} {describe(score, column)}, before {describe(score, BASE)}: {score.differences[column].word}."


def describe(score: Score, column: str) -> str:
    """Format a column's figure: `59 of 60`, or a number."""
    if score.counts:
        return f"{score.counts[column]} of {score.rows}"
    return metrics.format_value(metrics.ALL[score.metric], score.values[column])


def evidence(score: Score, column: str) -> str:
    """Format a change with its interval and number of rows."""
    difference = score.differences[column]
    scale, mark = (100, " points") if score.unit == "share" else (1, "")
    digits = 3 if score.unit == "number" else 1
    figures = (difference.low, difference.value, difference.high)
    low, value, high = (f"{scale * figure:+.{digits}f}" for figure in figures)
    few = f"; only {difference.differ} of {score.rows} differ" if difference.differ < FEWEST else ""
    return f"{value}{mark}, 95% interval {low} to {high}, {score.rows} rows{few}"


def as_dict(scores: SetScores) -> dict[str, Any]:
    """Convert scores to plain values, for JSON."""
    return asdict(scores)


def from_dict(value: Mapping[str, Any]) -> SetScores:
    """Inverse of `as_dict`."""
    scores = [
        Score(**{**score, "differences": {key: Difference(**item) for key, item in score["differences"].items()}})
        for score in value["scores"]
    ]
    return SetScores(**{**value, "scores": scores})
