"""Verdicts on some hundred curves whose answer is known: made ones with noise of several seeds, and real runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from studio.services.curves.diagnosis import Curve, Kind, Verdict, judge

REAL = Path(__file__).parents[3] / "data" / "curves"


def curve(
    losses: np.ndarray, evals: dict[int, float] | None = None, rate: float = 2e-4, checkpoints: tuple[int, ...] = ()
) -> Curve:
    """Losses of steps 1, 2, 3 … under a linear schedule."""
    steps = np.arange(1.0, len(losses) + 1)
    found = dict(evals or {})
    return Curve(
        steps, np.asarray(losses, dtype=float), np.array(list(found), dtype=float),
        np.array(list(found.values()), dtype=float), rate * (1 - steps / (len(losses) + 1)), checkpoints,
    )  # fmt: skip


def decay(count: int, start: float, end: float, tau: float) -> np.ndarray:
    return end + (start - end) * np.exp(-np.arange(count) / tau)


def noise(seed: int, count: int, sigma: float, correlated: bool = False) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0, sigma, count)
    if correlated:  # neighbours share a third of their noise
        drawn = (drawn + 0.5 * np.concatenate(([0], drawn[:-1]))) / 1.118
    return drawn


SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("count", "sigma"), [(40, 0.05), (200, 0.15), (3000, 0.3)])
def test_learning(seed: int, count: int, sigma: float) -> None:
    losses = decay(count, 2.8, 0.6, count / 2) + noise(seed, count, sigma, correlated=seed % 2 == 1)
    found = judge(curve(losses))
    assert found.kind == "learning", found
    assert found.since is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("count", "sigma"), [(150, 0.03), (600, 0.1), (20_000, 0.4)])
def test_plateaued(seed: int, count: int, sigma: float) -> None:
    losses = decay(count, 2.5, 0.9, count / 20) + noise(seed, count, sigma, correlated=seed % 2 == 1)
    found = judge(curve(losses))
    assert found.kind == "plateau", found
    assert found.since is not None and found.since > count / 20


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("count", "best"), [(60, 20), (300, 120), (2000, 400)])
def test_overfitting(seed: int, count: int, best: int) -> None:
    losses = decay(count, 2.6, 0.05, count / 4) + noise(seed, count, 0.05)
    every = count // 15
    jitter = noise(seed + 9, 100, 0.004)
    evals = {
        step: 1.1 + 0.8 * (abs(step - best) / count) ** 1.2 + jitter[at]
        for at, step in enumerate(range(every, count + 1, every))
    }
    found = judge(curve(losses, evals, checkpoints=(best // 2, best, 2 * best)))
    assert found.kind == "overfitting", found
    assert found.best_step is not None and abs(found.best_step - best) <= 2 * every
    assert found.best_checkpoint == best
    assert found.since is not None and found.best_step < found.since <= found.best_step + every


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("late", [0.5, 0.7])
def test_diverged_after_it_had_learned(seed: int, late: float) -> None:
    count = 300
    losses = decay(count, 2.6, 0.8, 60) + noise(seed, count, 0.08)
    at = int(late * count)
    losses[at:] = 6.0 * (1 - np.exp(-np.arange(count - at) / 8)) + 0.9 + noise(seed + 5, count - at, 0.3)
    found = judge(curve(losses))
    assert found.kind == "diverged", found
    assert found.since is not None and at - 5 <= found.since <= at + 30


@pytest.mark.parametrize("count", [4, 12, 400])
def test_a_loss_that_is_no_number(count: int) -> None:
    losses = decay(count, 2.6, 0.8, 60)
    losses[-max(3, count // 5) :] = np.nan
    found = judge(curve(losses))
    assert found.kind == "diverged"
    assert found.since == count - max(3, count // 5) + 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("settles", [4.5, 7.0])
def test_learning_rate_too_high(seed: int, settles: float) -> None:
    count = 60
    losses = settles + (2.7 - settles) * np.exp(-np.arange(count) / 3) + noise(seed, count, 0.25)
    found = judge(curve(losses, rate=2e-2))
    assert found.kind == "too_high", found
    assert "0.0197" in found.words


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("count", "sigma"), [(200, 0.03), (1000, 0.1)])
def test_learning_rate_too_low(seed: int, count: int, sigma: float) -> None:
    steps = np.arange(count)
    travelled = np.cumsum(1 - steps / count)
    losses = 2.7 - 0.12 * travelled / travelled[-1] + noise(seed, count, sigma)
    found = judge(curve(losses, rate=2e-6))
    assert found.kind == "too_low", found


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_a_few_points_say_nothing(count: int) -> None:
    assert judge(curve(decay(count, 2.8, 0.5, 3))).kind == "short"


@pytest.mark.parametrize("seed", range(8))
def test_noise_alone_is_no_trend(seed: int) -> None:
    """Within its noise nothing is claimed; where it is long enough to know, it is that nothing moves."""
    kinds: set[Kind] = {judge(curve(2.5 + noise(seed, count, 0.4))).kind for count in (12, 20, 30)}
    assert kinds == {"short"}
    assert judge(curve(2.5 + noise(seed, 3000, 0.2))).kind == "plateau"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_worse_evaluation_is_not_overfitting(seed: int) -> None:
    losses = decay(200, 2.6, 0.4, 80) + noise(seed, 200, 0.05)
    evals = {50: 1.6, 100: 1.2, 150: 1.0, 200: 1.08}
    assert judge(curve(losses, evals)).kind == "learning"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spike_that_came_back_is_no_divergence(seed: int) -> None:
    losses = decay(300, 2.6, 0.6, 120) + noise(seed, 300, 0.05)
    losses[100:106] += 4
    losses[200] = np.nan
    assert judge(curve(losses)).kind == "learning"


def test_evaluations_that_wander_are_not_overfitting() -> None:
    losses = decay(400, 2.6, 0.4, 150) + noise(1, 400, 0.05)
    for seed in range(10):
        evals = dict(zip(range(20, 401, 20), (1.0 + noise(seed, 20, 0.03)).tolist(), strict=True))
        assert judge(curve(losses, evals)).kind == "learning"


# Where each comes from (model, data, recipe) stands in its file under "origin"; all other curves here are made.
REAL_ONES: dict[str, Kind] = {
    "overfits-20-rows": "overfitting",
    "rate-100-times": "too_high",
    "healthy": "learning",
    "healthy-gsm8k": "learning",
}


def real(name: str) -> Curve:
    found = json.loads((REAL / f"{name}.json").read_text())
    del found["origin"]
    columns = {key: np.array([np.nan if v is None else v for v in found[key]], dtype=float) for key in found}
    return Curve(*(columns[key] for key in ("steps", "losses", "eval_steps", "eval_losses", "rates")))


@pytest.mark.parametrize("name", REAL_ONES)
def test_real_runs(name: str) -> None:
    found: Verdict = judge(real(name))
    assert found.kind == REAL_ONES[name], found
    if name == "overfits-20-rows":
        assert (found.best_step, found.since) == (15, 20)


@pytest.mark.parametrize("name", REAL_ONES)
def test_a_real_run_is_never_judged_otherwise_while_it_is_shorter(name: str) -> None:
    """On the way a run is too short to tell or learning, until its verdict; then it keeps that."""
    whole = real(name)
    kinds = []
    for count in range(1, len(whole.steps) + 1):
        seen = whole.eval_steps <= whole.steps[count - 1]
        some = Curve(whole.steps[:count], whole.losses[:count], whole.eval_steps[seen], whole.eval_losses[seen],
                     whole.rates[:count])  # fmt: skip
        kinds.append(judge(some).kind)
    assert set(kinds) <= {"short", "learning", REAL_ONES[name]}, kinds


def test_every_real_curve_says_where_it_comes_from() -> None:
    assert {path.stem for path in REAL.iterdir()} == set(REAL_ONES)
    for path in REAL.iterdir():
        found = json.loads(path.read_text())
        origin, recipe = found["origin"], found["origin"]["recipe"]
        assert origin["kind"] == "real" and origin["model"] and origin["data"] and origin["examples"] > 0
        assert max(found["rates"]) == pytest.approx(recipe["learning_rate"])
        assert len(found["steps"]) == len(found["losses"]) == len(found["rates"])
