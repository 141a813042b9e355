"""Verdict on a dataset: one sentence on whether it can be trained on, and a severity, from its counts alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from studio.dataset.read.rows import FAULTS, Kind
from studio.dataset.tokens.counts import Cut

Mark = Literal["good", "warn", "bad"]
# Above these shares the file or the settings are wrong, rather than a few rows.
_MANY_LEFT_OUT = 0.2
_MANY_REPEATED = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """Severity and text. mark: good (train), warn (look first), bad (fix first). text: a sentence with the figures."""

    mark: Mark
    text: str


def verdict(rows: int, ok: int, counts: Mapping[str, int], max_length: int = 0, cut: Cut | None = None) -> Verdict:
    """Judge a dataset. rows: rows read; ok: rows kept; counts: findings by kind; cut: the loss at max_length (tokens),
    if known."""
    out = {kind: number for kind, number in counts.items() if number and FAULTS[_kind(kind)].left_out}
    left_out = sum(out.values())
    repeats = counts.get("duplicate", 0) + counts.get("near_duplicate", 0)
    leaks = counts.get("leak", 0)
    untrained, lost = (cut.rows_untrained, cut.answers_lost) if cut else (0, 0)
    bad = left_out > _MANY_LEFT_OUT * max(1, rows) or untrained > _MANY_LEFT_OUT * max(1, ok)
    warn = bool(left_out or leaks or lost or untrained) or repeats > _MANY_REPEATED * max(1, ok)
    parts = [_usable(rows, ok, out)]
    if leaks:
        parts.append(f"{_rows(leaks, 'held-out row')} {'is' if leaks == 1 else 'are'} also trained on")
    if repeats:
        parts.append(f"{_rows(repeats, 'row')} {'repeats' if repeats == 1 else 'repeat'} others")
    if cut is not None:
        parts.append(_length(cut, max_length))
    mark: Mark = "bad" if bad else "warn" if warn else "good"
    lead = {"good": "Ready to train", "warn": "Usable, with warnings", "bad": "Fix this first"}[mark]
    return Verdict(mark, f"{lead}: {'; '.join(parts)}.")


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
