"""Verdict on a dataset: one sentence on whether it can be trained on, and a severity, from its counts alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from studio.dataset.read.accounting import Use, not_read
from studio.dataset.read.rows import FAULTS, Kind
from studio.dataset.tokens.counts import Cut
from studio.dataset.tokens.remarks import MEANINGS, Remark

Mark = Literal["good", "warn", "bad"]
# Above these shares the file or the settings are wrong, rather than a few rows.
_MANY_LEFT_OUT = 0.2
_MANY_REPEATED = 0.01
# Kinds of rows that the person, or the file itself, keeps out.
_CHOSEN = ("excluded", "unwanted")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Severity and text. mark: good (train), warn (look first), bad (fix first). text: a sentence with the figures."""

    mark: Mark
    text: str


def verdict(
    rows: int,
    ok: int,
    counts: Mapping[str, int],
    max_length: int = 0,
    cut: Cut | None = None,
    warnings: Sequence[str] = (),
) -> Verdict:
    """Judge a dataset. rows: rows read; ok: rows kept; counts: findings by kind; cut: the loss at max_length (tokens),
    if known; warnings: what keeps it from being ready, as parts of a sentence (`unread`, `remarked`)."""
    out = {kind: number for kind, number in counts.items() if number and FAULTS[_kind(kind)].left_out}
    left_out = sum(number for kind, number in out.items() if kind not in _CHOSEN)
    repeats = counts.get("duplicate", 0) + counts.get("near_duplicate", 0)
    leaks = counts.get("leak", 0)
    untrained, lost = (cut.rows_untrained, cut.answers_lost) if cut else (0, 0)
    bad = left_out > _MANY_LEFT_OUT * max(1, rows) or untrained > _MANY_LEFT_OUT * max(1, ok)
    warn = bool(left_out or leaks or lost or untrained or warnings) or repeats > _MANY_REPEATED * max(1, ok)
    parts = [_usable(rows, ok, out)]
    if leaks:
        parts.append(f"{_rows(leaks, 'held-out row')} {'is' if leaks == 1 else 'are'} also trained on")
    if markup := counts.get("markup", 0):
        warn = True
        parts.append(f"{_rows(markup, 'row')} {'has' if markup == 1 else 'have'} chat markup in plain text")
    if repeats:
        parts.append(f"{_rows(repeats, 'row')} {'repeats' if repeats == 1 else 'repeat'} others")
    parts += warnings
    if cut is not None:
        parts.append(_length(cut, max_length))
    mark: Mark = "bad" if bad else "warn" if warn else "good"
    lead = {"good": "Ready to train", "warn": "Usable, with warnings", "bad": "Fix this first"}[mark]
    return Verdict(mark, f"{lead}: {'; '.join(parts)}.")


def unread(columns: Iterable[Use], keys: Iterable[Use]) -> list[str]:
    """What is not read although its name says that it carries meaning, as parts of a verdict."""
    found = []
    for what, uses in (("column", columns), ("message key", keys)):
        for use in not_read(uses):
            where = _rows(use.rows, "row" if what == "column" else "message")
            found.append(f"the {what} {use.name} is not read ({where})")
    return found


def remarked(counts: Mapping[Remark, int]) -> list[str]:
    """What template and tokenizer do to examples, as parts of a verdict: only what is serious."""
    serious = ((count, MEANINGS[remark]) for remark, count in counts.items() if MEANINGS[remark].serious)
    return [f"in {_rows(count, 'example')} {meaning.text}" for count, meaning in serious]


def _kind(name: str) -> Kind:
    return name if name in FAULTS else "unreadable"


def _usable(rows: int, ok: int, out: Mapping[str, int]) -> str:
    if not out:
        return f"all {ok:,} rows can be used"
    kinds = ", ".join(f"{number:,} {FAULTS[_kind(kind)].label}" for kind, number in out.items())
    return f"{ok:,} of {max(rows, ok):,} rows can be used ({kinds})"


def _length(cut: Cut, max_length: int) -> str:
    if not cut.rows_cut:
        return f"nothing is cut at max_length {max_length:,}"
    text = f"at max_length {max_length:,} you lose {cut.tokens_lost:,} tokens of {_rows(cut.rows_cut, 'row')}"
    return f"{text} and {_rows(cut.answers_lost, 'whole answer')}"


def _rows(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
