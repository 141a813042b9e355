"""Training speed of this machine in operations per second, from its past runs, or a typical figure without any."""

import functools
import statistics
import time
from dataclasses import dataclass, field

import yaml

from studio.errors import StudioError
from studio.memory import flops
from studio.recipe import Recipe
from studio.recipe.fast_path import why_not
from studio.services.core.studio import Studio
from studio.services.host.machine import Machine
from studio.services.models import models
from studio.store import runs as rows
from studio.store.tables import Run

# Operations per second. CPU figures are for one core, from 30 steps of SmolLM2-135M on two cores with AMX (425
# tokens/s, benchmarks/RESULTS.md). "emulated" is the reference path without bfloat16 in hardware (5 tokens/s on two
# cores with AVX2). The GPU figure is a third of an A100's peak in bfloat16, and has not been measured here.
_USUAL = {"fast": 1.0e11, "slow": 2.5e10, "cuda": 1.0e14, "emulated": 1.5e9}
# Unpacking 4 bits costs about a third of a step (Dettmers et al. 2023); DoRA makes it up to twice as long.
_QUANTIZED, _DORA = 1.33, 2.0
_FAST_PATH = 2.5  # times as fast as the reference (benchmarks/RESULTS.md)
_NEAREST = 5
_KEPT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Past:
    """A past run on this machine: its settings, and the operations per second it reached."""

    device: str
    dtype: str
    quantization: str
    method: str
    engine: str
    rate: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Operations per second, and a phrase that says where the figure comes from."""

    rate: float
    source: str


# Maximum number of owners whose past runs are cached; the oldest entries are dropped first.
_OWNERS = 64


@dataclass(slots=True)
class _Remembered:
    """Cached past runs of each owner, with the time at which they were read."""

    by_owner: dict[str, tuple[float, list[Past]]] = field(default_factory=dict)


def of(studio: Studio, recipe: Recipe, now: Machine) -> Speed:
    """The speed at which this machine would train `recipe`."""
    kind = "cuda" if now.device_kind == "cuda" else "cpu"
    past_runs = [past for past in _runs(studio) if past.device == kind]
    if not past_runs:
        fast = kind == "cpu" and _engine(studio, recipe) == "fast"
        usual = _USUAL["cuda"] if kind == "cuda" else now.cores * _USUAL[_cpu(recipe, now, fast)]
        quicker = _FAST_PATH if fast else 1.0
        return Speed(
            quicker * usual / _slower(recipe), "a typical figure for such a machine: nothing has been trained here yet"
        )
    wanted = (_engine(studio, recipe), recipe.model.dtype, recipe.quantization.quantization, recipe.method.method)

    def similarity(past: Past) -> int:
        known = (past.engine, past.dtype, past.quantization, past.method)
        # The engine matters more than the others.
        return sum((3 if place == 0 else 1) * (a == b) for place, (a, b) in enumerate(zip(wanted, known, strict=True)))

    nearest = sorted(past_runs, key=similarity, reverse=True)[:_NEAREST]
    best = similarity(nearest[0])
    similar = [past for past in nearest if similarity(past) == best]
    rate = statistics.median(past.rate for past in similar)
    plural = "run" if len(similar) == 1 else "runs"
    return Speed(rate, f"measured in {len(similar)} {plural} on this machine")


def _engine(studio: Studio, recipe: Recipe) -> str:
    """The engine that would train this recipe on a CPU."""
    try:
        config = models.shape_of(studio, recipe.model.model).config
    except StudioError:
        return "trl"
    return "trl" if why_not(recipe, config, cuda=False) else "fast"


def _cpu(recipe: Recipe, now: Machine, fast: bool) -> str:
    if recipe.model.dtype != "bfloat16":
        return "slow"
    if now.bf16_fast:
        return "fast"
    return "slow" if fast else "emulated"  # without bfloat16 in hardware, the fast path multiplies in float32


def _slower(recipe: Recipe) -> float:
    dora = _DORA if recipe.method.method == "lora" and recipe.method.use_dora else 1.0
    return dora * (_QUANTIZED if recipe.quantization.quantization != "none" else 1.0)


def _runs(studio: Studio) -> list[Past]:
    """The owner's past runs with a known speed, cached for a while."""
    cache, owner = studio.state(_Remembered).by_owner, studio.owner
    cached = cache.get(owner)
    if cached is not None and time.monotonic() - cached[0] < _KEPT_SECONDS:
        return cached[1]
    past_runs = [past for row in rows.every(studio.database, studio.owner) if (past := _read(studio, row)) is not None]
    while len(cache) >= _OWNERS:
        cache.pop(next(iter(cache)), None)
    cache[owner] = (time.monotonic(), past_runs)
    return past_runs


@functools.lru_cache(maxsize=2048)
def _recipe(text: str) -> Recipe:
    """Parse a recipe; cached, because recipes of runs never change and parsing hundreds takes a second."""
    return Recipe.parse(yaml.safe_load(text), "run")


def _read(studio: Studio, row: Run) -> Past | None:
    if not row.tokens_per_s or not row.recipe:
        return None
    try:
        recipe = _recipe(row.recipe)
        shape = models.shape_of(studio, row.model)
    except StudioError:
        return None  # written by another version, or its model is gone
    length = recipe.data.max_length / 2  # the mean length of its examples is not stored; attention is a small part
    rate = row.tokens_per_s * flops.per_token(shape, recipe, length, 0.5)
    kind = "cpu" if row.device.upper().startswith("CPU") else "cuda"
    engine = str((row.plan or {}).get("engine", "trl"))  # runs from before it was recorded used the reference
    quantization, method = recipe.quantization.quantization, recipe.method.method
    return Past(kind, recipe.model.dtype, quantization, method, engine, rate)
