"""What a run's curves say, in plain words, with the evidence. Pure functions over arrays; docs/curves.md has the rules.

The yardstick is the noise of the loss from step to step: sigma = 1.4826 · median(|d - median d|) / sqrt(2) over its
differences d, which a slow trend does not enter and single spikes hardly do (median absolute deviation: Rousseeuw and
Croux, 1993). A mean of k points is then known to about 1.5 · sigma / sqrt(k), the 1.5 for noise that is not quite
independent. What is not larger than a few of these is not said.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["short", "learning", "plateau", "overfitting", "diverged", "too_high", "too_low"]
LEAST = 10  # points below which nothing is said of a trend
_LONG = 2000  # more points than this are read as means of stretches
_GENTLE_RATE = 5e-5  # below it a LoRA that does not move most likely has too low a rate; 1e-4 to 1e-3 are usual


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
    """A kind, a sentence, and what it rests on. `since`: a step; `best_step`: of the best evaluation."""

    kind: Kind
    words: str
    evidence: tuple[str, ...] = ()
    since: int | None = None
    best_step: int | None = None
    best_checkpoint: int | None = None


@dataclass(frozen=True, slots=True)
class _Facts:
    """Levels of the training loss and how well they are known (errors are standard errors)."""

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
    """The first rule that holds: broken numbers, a jump, overfitting, then how the training loss goes."""
    best = _Evaluations.of(curve)
    broken = _broken(curve)
    if broken:
        return best.attach(broken)
    finite = np.isfinite(curve.losses)
    count = int(finite.sum())
    if count < LEAST // 2:
        return best.attach(_short(count))
    facts = _facts(curve.steps[finite], curve.losses[finite], curve.rates[finite])
    found = _jump(facts, count) or best.overfitting(facts)
    if found is None:
        found = _short(count) if count < LEAST else _trend(facts, best, curve.over)
    return best.attach(found)


def _short(count: int) -> Verdict:
    points = "point" if count == 1 else "points"
    return Verdict("short", "Too short to tell.", (f"{count} {points} so far; a trend takes at least {LEAST}.",))


def _broken(curve: Curve) -> Verdict | None:
    """Rule 1: the loss is no finite number any more, at its end or in most of its last tenth."""
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
        f"Diverged: since step {since:,} the loss is not a finite number. Lower the learning rate, or look at the "
        "examples if it began at the first step.",
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
    # Identical losses are known to their last digit shown, not exactly.
    sigma *= 1 + 4 / count  # of few differences, the noise itself is known only roughly
    sigma = max(sigma, 1e-4 * float(np.median(np.abs(losses))), 1e-9)
    # The first point is the only one before any step; a rate too high shows in the next.
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
    """Rule 2: the loss rose far above what it had reached, and has not come back."""
    rolling, noise = facts.rolling, facts.about(facts.span)
    lowest = np.minimum.accumulate(rolling)
    level = float(rolling[-1])
    floor = float(lowest[-1])
    where = int(rolling.argmin())
    learned = max(0.0, facts.start - floor)
    # Half of what was learned is lost again, or it stands above where it began; and both far beyond the noise.
    above = -facts.fall > max(4 * facts.error, 0.15 * abs(facts.start)) and level > facts.start
    # An explosion makes the noise so large that nothing is beyond it: then every later point far above both first ones.
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
        f"The loss began at {facts.start:.3g}, was {floor:.3g} at its lowest and is {level:.3g} now"
        + (f"; its peak was {peak:.3g}." if peak > 1.1 * level else "."),
        f"From step to step it varies by about {facts.sigma:.2g}.",
    ]
    early = since_at <= max(2, len(rolling) // 3)
    rate = float(np.nanmax(facts.rates)) if np.isfinite(facts.rates).any() else None
    told = "" if rate is None else f" (at most {rate:.3g} so far)"
    if early:
        words = (
            f"The learning rate{told} looks too high: the loss rose from step {since:,} on instead of falling. "
            "Try a third or a tenth of it, or a longer warm-up."
        )
        return Verdict("too_high", words, tuple(evidence), since)
    if count < LEAST:
        return None
    words = (
        f"Diverged: the loss has risen since about step {since:,} and has not come back. A lower learning rate{told} "
    )
    return Verdict("diverged", words + "or stronger gradient clipping usually helps.", tuple(evidence), since)


@dataclass(frozen=True, slots=True)
class _Evaluations:
    """The evaluations with a finite loss, the best of them, and the checkpoint that fits it."""

    steps: Array
    losses: Array
    checkpoints: tuple[int, ...]

    @classmethod
    def of(cls, curve: Curve) -> "_Evaluations":
        finite = np.isfinite(curve.eval_losses)
        return cls(curve.eval_steps[finite], curve.eval_losses[finite], curve.checkpoints)

    @property
    def tolerance(self) -> float:
        """What an evaluation must differ by to count: 1% of the best, or twice their own noise where it can be told."""
        best = float(self.losses.min())
        if len(self.losses) < 5:
            return 0.02 * abs(best)
        # Second differences: a straight or gently bent curve has none.
        bends = np.diff(self.losses, 2)
        noise = 1.4826 * float(np.median(np.abs(bends - np.median(bends)))) / math.sqrt(6)
        return max(0.01 * abs(best), 2 * noise)

    @property
    def still_falling(self) -> bool:
        last = self.losses[-3:]
        return len(last) == 3 and bool(np.all(np.diff(last) < 0)) and float(last[0] - last[-1]) > self.tolerance

    def overfitting(self, facts: _Facts) -> Verdict | None:
        """Rule 3: all of at least two evaluations after the best are worse, while the training loss did not rise."""
        if len(self.losses) < 3:
            return None
        at = int(self.losses.argmin())
        best, last = float(self.losses[at]), float(self.losses[-1])
        later = self.losses[at + 1 :]
        tolerance = self.tolerance
        # Two may be chance, and have to be further off than three.
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
        words = f"Overfitting since step {since:,}: it still learns its examples, and gets worse on those held out."
        return Verdict("overfitting", words, evidence, since)

    def attach(self, verdict: Verdict) -> Verdict:
        """The verdict with the best evaluation and the checkpoint nearest to it."""
        if not len(self.losses):
            return verdict
        step = int(self.steps[int(self.losses.argmin())])
        checkpoint = min(self.checkpoints, key=lambda at: (abs(at - step), at), default=None)
        among = f"Best of {len(self.losses)} evaluations" if len(self.losses) > 1 else "The only evaluation"
        told = f"{among}: {float(self.losses.min()):.4g} at step {step:,}; "
        if checkpoint is None:
            told += "no checkpoint is kept."
        elif checkpoint == step:
            told += "its checkpoint is kept."
        else:
            told += f"the nearest checkpoint kept is of step {checkpoint:,}."
        words = verdict.words
        if verdict.kind == "overfitting":
            words += f" {told}"
            return Verdict(verdict.kind, words, verdict.evidence, verdict.since, step, checkpoint)
        return Verdict(verdict.kind, words, (*verdict.evidence, told), verdict.since, step, checkpoint)


def _level_at(facts: _Facts, step: int) -> float:
    """The mean of the training loss around a step."""
    middle = int(np.searchsorted(facts.steps, step))
    half = max(1, facts.span // 2)
    return float(facts.losses[max(0, middle - half) : middle + half + 1].mean())


def _trend(facts: _Facts, evals: _Evaluations, over: bool) -> Verdict:
    """Rules 4 to 6: where the training loss went, and whether it still goes there."""
    count = len(facts.losses)
    quarter = max(2, count // 4)
    before, now = (float(facts.losses[a:b].mean()) for a, b in ((-2 * quarter, -quarter), (-quarter, count)))
    gain, error = before - now, facts.about(quarter) * math.sqrt(2)
    went = (
        f"Training loss: {facts.start:.3g} at first, {facts.end:.3g} over the last fifth "
        f"({-100 * facts.fall / abs(facts.start):+.1f}%, known to ±{100 * 2 * facts.error / abs(facts.start):.1f}%)."
    )
    lately = f"From the third quarter to the last it changed by {-gain:+.2g} ± {2 * error:.1g}."
    evidence = (went, lately)
    # Over a slow run the whole line says more than its ends do.
    drift, drift_error = _drift(facts)
    falls = facts.fall > max(3 * facts.error, 0.005 * abs(facts.start)) or (drift > 3 * drift_error and facts.fall > 0)
    size = max(facts.fall, drift)
    if count >= 30 and falls and size < 0.1 * abs(facts.start) and drift > 3 * drift_error and not _slows(facts):
        return _too_low(facts, evidence, size)
    if falls:
        flat = gain + 2 * error < (0.06 if gain < 2 * error else 0.03) * size
        if flat and not evals.still_falling:
            since = int(facts.steps[-2 * quarter])
            words = f"Plateaued since about step {since:,} or earlier: the loss fell and now stays where it is."
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
    why = f"It varies by about {facts.sigma:.2g} from step to step, which is more than it has changed so far."
    return Verdict("short", "Too short to tell: the loss has not changed by more than its noise.", (*evidence, why))


def _learning(facts: _Facts, evidence: tuple[str, ...], falling: bool, over: bool) -> Verdict:
    if not falling:
        words = "Learning: the loss has fallen; whether it still does cannot be told from its noise."
    elif over:
        words = "Learning to its end: the loss still fell when the run ended, so more steps may have helped."
    else:
        words = "Learning: the loss is falling."
    return Verdict("learning", words, evidence)


def _too_low(facts: _Facts, evidence: tuple[str, ...], size: float) -> Verdict:
    rates = facts.rates[np.isfinite(facts.rates)]
    told = f" ({float(rates.max()):.3g} at most)" if len(rates) else ""
    share = 100 * size / abs(facts.start)
    words = (
        f"The learning rate{told} looks too low: in {len(facts.losses):,} points the loss moved by {share:.1f}%, "
        "without slowing down. Try three to ten times as much."
    )
    return Verdict("too_low", words, evidence)


def _spread(facts: _Facts) -> float:
    """How far apart the means of the four quarters may lie, noise included."""
    quarters = [float(part.mean()) for part in np.array_split(facts.losses, 4)]
    return max(quarters) - min(quarters) + 2 * math.sqrt(2) * facts.about(len(facts.losses) // 4)


def _drift(facts: _Facts) -> tuple[float, float]:
    """How far a straight line through the losses falls, and its standard error (ordinary least squares)."""
    count = len(facts.losses)
    at = np.arange(count) - (count - 1) / 2
    spread = float(at @ at)
    slope = float(at @ facts.losses) / spread
    return -slope * (count - 1), 1.5 * facts.sigma / math.sqrt(spread) * (count - 1)


def _slows(facts: _Facts) -> bool:
    """Whether the second half brought clearly less than the first, per sum of learning rates.

    With too low a rate the loss is a straight line over the sum of the rates: gradient flow that has hardly begun.
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
    # Slower by more than half, as far as the noise lets one see it.
    return second + 2 * second_error < 0.5 * (first - 2 * first_error)
