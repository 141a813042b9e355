"""Metrics of an evaluation: definition, the rows each applies to, and which direction is better.

chrF and BLEU are sacrebleu's (Popović 2015; Papineni et al. 2002, tokenised as in mteval-v13a), ROUGE-L is the F
measure of rouge-score (Lin 2004) over lower-cased words of any script. BLEU is computed over the whole set, from sums
over rows; every other figure is the mean over rows, or over tokens for the loss.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from studio.evaluation import rules
from studio.evaluation.bootstrap import Figure, Table, mean
from studio.evaluation.prompts import Prompt

ORDERS = 4  # maximum n-gram order of BLEU
Unit = Literal["share", "points", "number"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: name, label, description, unit, direction, and its figure from sums over rows.

    of_row: the sums of one row, None where the metric does not apply. yes_or_no: whether each row counts as 0 or 1.
    """

    name: str
    label: str
    about: str
    of_row: Callable[[Prompt, str], Sequence[float] | None]
    unit: Unit = "share"
    more_is_better: bool = True
    yes_or_no: bool = False
    figure: Figure = mean


def _reference(prompt: Prompt) -> str:
    """The text that answers are compared with; empty for calls, which each model writes in a form of its own."""
    return "" if prompt.check is not None and prompt.check.kind == "tool_call" else prompt.reference


def _bleu_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    reference = _reference(prompt)
    if not reference:
        return None
    score = _sacrebleu()[0].sentence_score(answer, [reference])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def bleu(sums: Table) -> Table:
    """BLEU from sums over rows, as sacrebleu's corpus_score: counts, totals, length of answers and of references.

    The geometric mean of the n-gram precisions, where an order without matches counts as 1/2, 1/4 … of one ("exp"
    smoothing), times exp(1 - reference / answers) where the answers are shorter.
    """
    counts, totals = sums[:, :ORDERS], sums[:, ORDERS : 2 * ORDERS]
    answered, wanted = sums[:, -2], sums[:, -1]
    none = counts == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(none, 0.5 ** np.cumsum(none, axis=1), counts) / totals
        short = np.where(answered < wanted, np.exp(1 - wanted / answered), 1.0)
        score = 100 * short * np.exp(np.log(shares).mean(axis=1))
    return np.where((counts.sum(axis=1) == 0) | (totals == 0).any(axis=1), 0.0, score)


def _chrf_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    reference = _reference(prompt)
    return _mean_of(_sacrebleu()[1].sentence_score(answer, [reference]).score) if reference else None


def _rouge_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    reference = _reference(prompt)
    return _mean_of(100 * _rouge().score(reference, answer)["rougeL"].fmeasure) if reference else None


@functools.cache
def _sacrebleu() -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=True), CHRF()


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    """Tokenizer for words of any script: rouge-score's default only supports the letters a to z."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def _mean_of(value: float) -> Sequence[float]:
    return [float(value), 1.0]


def _check_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    return None if prompt.check is None else _mean_of(rules.met(prompt.check, answer))


def _exact_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    reference = _reference(prompt)
    return _mean_of(rules.exact(answer, reference)) if reference else None


def _contains_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    reference = _reference(prompt)
    if not reference or rules.json_object(reference) is not None:
        return None
    return _mean_of(rules.contains(answer, reference))


def _form_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    wanted = rules.json_object(_reference(prompt))
    return None if wanted is None else _mean_of(rules.same_keys(answer, set(wanted)))


def _values_row(prompt: Prompt, answer: str) -> Sequence[float] | None:
    wanted = rules.json_object(_reference(prompt))
    return None if wanted is None else _mean_of(rules.values_share(answer, wanted))


def loss(sums: Table) -> Table:
    """Mean loss per token, in nats, from (sum of losses, tokens)."""
    return mean(sums)


def perplexity(sums: Table) -> Table:
    """exp of the mean loss per token."""
    return np.asarray(np.exp(np.minimum(mean(sums), 700.0)))


def _not_of_answers(prompt: Prompt, answer: str) -> None:
    """The loss comes from tokens of the reference, not from an answer."""


LOSS = Metric(
    "loss",
    "Loss",
    "mean over the trained tokens of the references, nats",
    _not_of_answers,
    "number",
    False,
    figure=loss,
)
PERPLEXITY = Metric(
    "perplexity", "Perplexity", "exp of the loss: 1 is certain", _not_of_answers, "number", False, figure=perplexity
)
OF_ANSWERS = (
    Metric("check", "As expected", "the prompt's own check is met", _check_row, yes_or_no=True),
    Metric("json_form", "JSON form", "valid JSON with exactly the expected keys", _form_row, yes_or_no=True),
    Metric("json_values", "JSON values", "share of the reference's values that are the same", _values_row),
    Metric(
        "exact",
        "Exact match",
        "the same text as the reference; white space is ignored, case is not",
        _exact_row,
        yes_or_no=True,
    ),
    Metric("contains", "Contains", "the answer contains the reference, ignoring case", _contains_row, yes_or_no=True),
    Metric("chrf", "chrF", "groups of letters in common, mean over rows", _chrf_row, "points"),
    Metric("bleu", "BLEU", "groups of words in common, over the whole set", _bleu_row, "points", figure=bleu),
    Metric("rouge_l", "ROUGE-L", "longest common run of words, mean over rows", _rouge_row, "points"),
)
ALL = {metric.name: metric for metric in (LOSS, PERPLEXITY, *OF_ANSWERS)}


def format_value(metric: Metric, value: float) -> str:
    """Format a figure with a suitable number of digits."""
    if metric.unit == "share":
        return f"{100 * value:.0f}%"
    if metric.unit == "points":
        return f"{value:.1f}"
    return "more than 1e6" if value > 1e6 else f"{value:.0f}" if value >= 100 else f"{value:.{_digits(value)}f}"


def _digits(value: float) -> int:
    return 3 if value == 0 or math.log10(abs(value)) < 1 else 1
