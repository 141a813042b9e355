"""Verdicts on a run's curves, in words, with the evidence. Pure functions over arrays; docs/curves.md has the rules.

The yardstick is the noise of the loss from step to step: sigma = 1.4826 · median(|d - median d|) / sqrt(2) over its
differences d, which is not affected by a slow trend and hardly by single spikes (median absolute deviation: Rousseeuw
and Croux, 1993). The standard error of a mean of k points is then about 1.5 · sigma / sqrt(k); the 1.5 allows for noise
that is not quite independent. A change below a few standard errors is not reported.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["short", "learning", "plateau", "overfitting", "diverged", "too_high", "too_low"]
LEAST = 10  # no verdict on a trend with fewer points
_LONG = 2000  # with more points than this, means of stretches are used
_GENTLE_RATE = 5e-5  # a LoRA that does not learn below this rate most likely has too low a rate; 1e-4 to 1e-3 is usual


@dataclass(frozen=True, slots=True)
class Curve:
    """A run so far: losses and learning rates by step, evaluation losses by step, steps of saved checkpoints."""

    steps: Array
    losses: Array
    eval_steps: Array
    eval_losses: Array
    rates: Array
    checkpoints: tuple[int, ...] = ()
    over: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kind, a sentence and its evidence. since: a step; best_step: step of the best evaluation."""

    kind: Kind
    words: str
    evidence: tuple[str, ...] = ()
    since: int | None = None
    best_step: int | None = None
    best_checkpoint: int | None = None


@dataclass(frozen=True, slots=True)
class _Facts:
    """Levels of the training loss, with standard errors."""

    steps: Array
    losses: Array
    rates: Array
    sigma: float
    start: float
    end: float
    error: float  # of start - end
    rolling: Array  # means over `span` points, ending at each of steps[span - 1:]
    span: int

    @property
    def fall(self) -> float:
        return self.start - self.end

    def about(self, count: int) -> float:
        return 1.5 * self.sigma / math.sqrt(max(1, count))


def judge(curve: Curve) -> Verdict:
    """The verdict of the first rule that applies: non-finite losses, a jump, overfitting, then the trend."""
    best = _Evaluations.of(curve)
    broken = _broken(curve)
    if broken:
        return best.attach(broken)
    finite = np.isfinite(curve.losses)
    count = int(finite.sum())
    if count < LEAST // 2:
        return best.attach(_short(count))
    facts = _facts(curve.steps[finite], curve.losses[finite], curve.rates[finite])
    verdict = _jump(facts, count) or best.overfitting(facts)
    if verdict is None:
        verdict = _short(count) if count < LEAST else _trend(facts, best, curve.over)
    return best.attach(verdict)


def _short(count: int) -> Verdict:
    points = "point" if count == 1 else "points"
    return Verdict("short", "Too short to tell.", (f"{count} {points} so far; a trend needs at least {LEAST}.",))


def _broken(curve: Curve) -> Verdict | None:
    """Rule 1: the loss is no longer finite, in its last three points or in most of its last tenth."""
    bad = ~np.isfinite(curve.losses)
    if not bad.any():
        return None
    tail = bad[-max(3, len(bad) // 10) :]
    at_end = len(bad) if bad.all() else int(bad[::-1].argmin())
    if at_end < 3 and (len(tail) < 3 or tail.mean() <= 0.5):
        return None
    since = int(curve.steps[len(bad) - at_end if at_end else int(bad.argmax())])
    return Verdict(
        "diverged",
        f"Diverged: since step {since:,} the loss is not a finite number. Lower the learning rate, or check the "
        "examples if this starts at the first step.",
        (f"{int(bad.sum()):,} of {len(bad):,} points have no finite loss.",),
        since,
    )


def _facts(steps: Array, losses: Array, rates: Array) -> _Facts:
    size = math.ceil(len(losses) / _LONG)
    if size > 1:
        steps, losses, rates = (_means(values, size) for values in (steps, losses, rates))
    count = len(losses)
    differences = np.diff(losses)
    sigma = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2)
    sigma *= 1 + 4 / count  # with few differences, the noise itself is known only roughly
    # Losses are logged with limited precision, so the noise of equal ones is not zero.
    sigma = max(sigma, 1e-4 * float(np.median(np.abs(losses))), 1e-9)
    # Only the first point is from before any update; too high a rate shows from the next one on.
    start = min(float(losses[0]), float(np.median(losses[:3])))
    last = max(3, count // 5)
    span = max(2, count // 12)
    rolling = np.convolve(losses, np.full(span, 1 / span), mode="valid")
    error = 1.5 * sigma * math.sqrt(1 / 3 + 1 / last)
    return _Facts(steps, losses, rates, sigma, start, float(losses[-last:].mean()), error, rolling, span)


def _means(values: Array, size: int) -> Array:
    whole = len(values) // size * size
    means: Array = values[:whole].reshape(-1, size).mean(axis=1)
    return means


def _jump(facts: _Facts, count: int) -> Verdict | None:
    """Rule 2: the loss rose far above its lowest level, and has not come down again."""
    rolling, noise = facts.rolling, facts.about(facts.span)
    lowest = np.minimum.accumulate(rolling)
    level = float(rolling[-1])
    floor = float(lowest[-1])
    where = int(rolling.argmin())
    learned = max(0.0, facts.start - floor)
    # Half of the improvement is lost again, or the loss is above its start; in both cases far beyond the noise.
    above = -facts.fall > max(4 * facts.error, 0.15 * abs(facts.start)) and level > facts.start
    # An explosion inflates the noise estimate itself: then test whether every later point is far above the first two.
    later = facts.losses[len(facts.losses) // 2 :]
    above = above or (count >= LEAST and float(later.min()) > 1.25 * float(np.abs(facts.losses[:2]).max()))
    lost = level - floor > max(8 * noise, 0.5 * learned, 0.25 * abs(floor)) and len(rolling) - where > 2
    if not (above or lost):
        return None
    risen = rolling > floor + 0.5 * (level - floor)
    risen[:where] &= rolling[:where] > facts.start + 6 * noise
    since_at = int(risen.argmax())
    since = int(facts.steps[min(len(facts.steps) - 1, since_at + facts.span - 1)])
    peak = float(rolling.max())
    evidence = [
        f"The loss started at {facts.start:.3g}, was {floor:.3g} at its lowest and is {level:.3g} now"
        + (f"; its peak was {peak:.3g}." if peak > 1.1 * level else "."),
        f"It varies by about {facts.sigma:.2g} from step to step.",
    ]
    early = since_at <= max(2, len(rolling) // 3)
    rate = float(np.nanmax(facts.rates)) if np.isfinite(facts.rates).any() else None
    so_far = "" if rate is None else f" (at most {rate:.3g} so far)"
    if early:
        words = (
            f"The learning rate{so_far} looks too high: the loss rose from step {since:,} on instead of falling. "
            "Try a third or a tenth of it, or a longer warm-up."
        )
        return Verdict("too_high", words, tuple(evidence), since)
    if count < LEAST:
        return None
    words = (
        f"Diverged: the loss has risen since about step {since:,} and has not come down again. "
        f"A lower learning rate{so_far} or stronger gradient clipping usually helps."
    )
    return Verdict("diverged", words, tuple(evidence), since)


@dataclass(frozen=True, slots=True)
class _Evaluations:
    """The evaluations with a finite loss, and the saved checkpoints."""

    steps: Array
    losses: Array
    checkpoints: tuple[int, ...]

    @classmethod
    def of(cls, curve: Curve) -> "_Evaluations":
        finite = np.isfinite(curve.eval_losses)
        return cls(curve.eval_steps[finite], curve.eval_losses[finite], curve.checkpoints)

    @property
    def tolerance(self) -> float:
        """The difference from which an evaluation counts as worse: 1% of the best, or twice the noise if larger.

        2% of the best with fewer than five evaluations, whose noise cannot be estimated.
        """
        best = float(self.losses.min())
        if len(self.losses) < 5:
            return 0.02 * abs(best)
        # Second differences vanish on a straight line and nearly so on a gently bent curve.
        bends = np.diff(self.losses, 2)
        noise = 1.4826 * float(np.median(np.abs(bends - np.median(bends)))) / math.sqrt(6)
        return max(0.01 * abs(best), 2 * noise)

    @property
    def still_falling(self) -> bool:
        last = self.losses[-3:]
        return len(last) == 3 and bool(np.all(np.diff(last) < 0)) and float(last[0] - last[-1]) > self.tolerance

    def overfitting(self, facts: _Facts) -> Verdict | None:
        """Rule 3: at least two evaluations follow the best, all are worse, and the training loss did not rise."""
        if len(self.losses) < 3:
            return None
        at = int(self.losses.argmin())
        best, last = float(self.losses[at]), float(self.losses[-1])
        later = self.losses[at + 1 :]
        tolerance = self.tolerance
        # Two may be chance, so they must be further off than three or more.
        enough = tolerance * (1.5 if len(later) > 2 else 3)
        if len(later) < 2 or not bool(np.all(later > best + tolerance)) or last < best + enough:
            return None
        step, since = int(self.steps[at]), int(self.steps[at + 1])
        then = _level_at(facts, step)
        if facts.end > then + 3 * facts.error:
            return None
        worse = 100 * (last - best) / abs(best) if best else math.inf
        evidence = (
            f"Evaluation loss: {best:.4g} at step {step:,}, {last:.4g} at step {int(self.steps[-1]):,} "
            f"({worse:+.0f}%); all {len(later)} evaluations after the best are worse by more than {tolerance:.2g}.",
            f"Training loss: about {then:.3g} at step {step:,}, {facts.end:.3g} now.",
        )
        words = (
            f"Overfitting since step {since:,}: it still fits its training examples, but gets worse on held-out ones."
        )
        return Verdict("overfitting", words, evidence, since)

    def attach(self, verdict: Verdict) -> Verdict:
        """The verdict with the best evaluation and the checkpoint nearest to it."""
        if not len(self.losses):
            return verdict
        step = int(self.steps[int(self.losses.argmin())])
        checkpoint = min(self.checkpoints, key=lambda at: (abs(at - step), at), default=None)
        label = f"Best of {len(self.losses)} evaluations" if len(self.losses) > 1 else "The only evaluation"
        note = f"{label}: {float(self.losses.min()):.4g} at step {step:,}; "
        if checkpoint is None:
            note += "no checkpoint is kept."
        elif checkpoint == step:
            note += "its checkpoint is kept."
        else:
            note += f"the nearest kept checkpoint is from step {checkpoint:,}."
        words = verdict.words
        if verdict.kind == "overfitting":
            words += f" {note}"
            return Verdict(verdict.kind, words, verdict.evidence, verdict.since, step, checkpoint)
        return Verdict(verdict.kind, words, (*verdict.evidence, note), verdict.since, step, checkpoint)


def _level_at(facts: _Facts, step: int) -> float:
    """The mean of the training loss around a step."""
    middle = int(np.searchsorted(facts.steps, step))
    half = max(1, facts.span // 2)
    return float(facts.losses[max(0, middle - half) : middle + half + 1].mean())


def _trend(facts: _Facts, evals: _Evaluations, over: bool) -> Verdict:
    """Rules 4 to 6: how far the training loss has fallen, and whether it is still falling."""
    count = len(facts.losses)
    quarter = max(2, count // 4)
    before, now = (float(facts.losses[a:b].mean()) for a, b in ((-2 * quarter, -quarter), (-quarter, count)))
    gain, error = before - now, facts.about(quarter) * math.sqrt(2)
    overall = (
        f"Training loss: {facts.start:.3g} at the start, {facts.end:.3g} over the last fifth "
        f"({-100 * facts.fall / abs(facts.start):+.1f}%, known to ±{100 * 2 * facts.error / abs(facts.start):.1f}%)."
    )
    lately = f"From the third quarter to the last it changed by {-gain:+.2g} ± {2 * error:.1g}."
    evidence = (overall, lately)
    # On a slow run, a line fitted to all points is more sensitive than the difference of the ends.
    drift, drift_error = _drift(facts)
    falls = facts.fall > max(3 * facts.error, 0.005 * abs(facts.start)) or (drift > 3 * drift_error and facts.fall > 0)
    size = max(facts.fall, drift)
    if count >= 30 and falls and size < 0.1 * abs(facts.start) and drift > 3 * drift_error and not _slows(facts):
        return _too_low(facts, evidence, size)
    if falls:
        flat = gain + 2 * error < (0.06 if gain < 2 * error else 0.03) * size
        if flat and not evals.still_falling:
            since = int(facts.steps[-2 * quarter])
            words = f"Plateaued since about step {since:,} or earlier: the loss fell and is now flat."
            return Verdict("plateau", words, evidence, since)
        return _learning(facts, evidence, gain > 2 * error or evals.still_falling, over)
    if count >= 30 and _spread(facts) < 0.05 * abs(facts.start):
        rates = facts.rates[np.isfinite(facts.rates)]
        if len(rates) and float(rates.max()) < _GENTLE_RATE:
            return _too_low(facts, evidence, max(0.0, facts.fall))
        words = (
            "Plateaued from the start: the loss has not moved. A higher learning rate, or other data, may change that."
        )
        return Verdict("plateau", words, evidence, int(facts.steps[0]))
    noise = f"It varies by about {facts.sigma:.2g} from step to step, which is more than it has changed so far."
    return Verdict("short", "Too short to tell: the loss has not changed by more than its noise.", (*evidence, noise))


def _learning(facts: _Facts, evidence: tuple[str, ...], falling: bool, over: bool) -> Verdict:
    if not falling:
        words = "Learning: the loss has fallen; its noise is too large to see whether it is still falling."
    elif over:
        words = "Learning to the end: the loss was still falling when the run ended, so more steps may help."
    else:
        words = "Learning: the loss is falling."
    return Verdict("learning", words, evidence)


def _too_low(facts: _Facts, evidence: tuple[str, ...], size: float) -> Verdict:
    rates = facts.rates[np.isfinite(facts.rates)]
    highest = f" ({float(rates.max()):.3g} at most)" if len(rates) else ""
    share = 100 * size / abs(facts.start)
    words = (
        f"The learning rate{highest} looks too low: over {len(facts.losses):,} points the loss moved by only "
        f"{share:.1f}%, without slowing down. Try a rate three to ten times as high."
    )
    return Verdict("too_low", words, evidence)


def _spread(facts: _Facts) -> float:
    """Upper bound of the range of the means of the four quarters, noise included."""
    quarters = [float(part.mean()) for part in np.array_split(facts.losses, 4)]
    return max(quarters) - min(quarters) + 2 * math.sqrt(2) * facts.about(len(facts.losses) // 4)


def _drift(facts: _Facts) -> tuple[float, float]:
    """The fall of a straight line fitted to the losses, and its standard error (ordinary least squares)."""
    count = len(facts.losses)
    at = np.arange(count) - (count - 1) / 2
    spread = float(at @ at)
    slope = float(at @ facts.losses) / spread
    return -slope * (count - 1), 1.5 * facts.sigma / math.sqrt(spread) * (count - 1)


def _slows(facts: _Facts) -> bool:
    """Whether the loss fell clearly less in the second half than in the first, per sum of learning rates.

    With too low a rate the loss is a straight line over the sum of the rates: gradient flow that has hardly started.
    """
    rates = np.where(np.isfinite(facts.rates), facts.rates, 0.0)
    if rates.sum() <= 0:
        rates = np.ones(len(facts.losses))
    travelled = np.cumsum(rates)
    middle = int(np.searchsorted(travelled, travelled[-1] / 2))
    if middle < 4 or len(rates) - middle < 4:
        return True
    halves = []
    for part in (slice(0, middle), slice(middle, None)):
        x, y = travelled[part], facts.losses[part]
        x = x - x.mean()
        halves.append((-float(x @ y) / float(x @ x), 1.5 * facts.sigma / math.sqrt(float(x @ x))))
    (first, first_error), (second, second_error) = halves
    # Slower by more than half, beyond the noise.
    return second + 2 * second_error < 0.5 * (first - 2 * first_error)
