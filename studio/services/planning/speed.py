"""How fast this machine trains: operations a second, from the runs it has done, or a usual figure until then."""

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

# Operations a second. A CPU's are for one core, from 30 steps of SmolLM2-135M on two cores with AMX (425 tokens/s,
# benchmarks/RESULTS.md); where bfloat16 is not multiplied in hardware the reference path reaches the last (5 tokens/s
# on two cores with AVX2). The GPU's is a third of what an A100 can do in bfloat16, and has not been measured here.
_USUAL = {"fast": 1.0e11, "slow": 2.5e10, "cuda": 1.0e14, "emulated": 1.5e9}
# Unpacking 4 bits costs about a third of a step (Dettmers et al. 2023); DoRA makes it up to twice as long.
_QUANTIZED, _DORA = 1.33, 2.0
_FAST_PATH = 2.5  # times as fast as the reference (benchmarks/RESULTS.md)
_NEAREST = 5
_KEPT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Past:
    """One run that was done here: what it was, and the operations a second it reached."""

    device: str
    dtype: str
    quantization: str
    method: str
    engine: str
    rate: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Operations a second, and in words how they are known."""

    rate: float
    source: str


# Owners whose runs are remembered; those asked for longest ago make way.
_OWNERS = 64


@dataclass(slots=True)
class _Remembered:
    """The past runs of each owner, with when they were read."""

    by_owner: dict[str, tuple[float, list[Past]]] = field(default_factory=dict)


def of(studio: Studio, recipe: Recipe, now: Machine) -> Speed:
    """The speed at which this machine would train `recipe`."""
    kind = "cuda" if now.device_kind == "cuda" else "cpu"
    found = [one for one in _runs(studio) if one.device == kind]
    if not found:
        fast = kind == "cpu" and _engine(studio, recipe) == "fast"
        usual = _USUAL["cuda"] if kind == "cuda" else now.cores * _USUAL[_cpu(recipe, now, fast)]
        quicker = _FAST_PATH if fast else 1.0
        return Speed(quicker * usual / _slower(recipe), "a usual figure for such a machine: no run was done here yet")
    wanted = (_engine(studio, recipe), recipe.model.dtype, recipe.quantization.quantization, recipe.method.method)

    def likeness(one: Past) -> int:
        known = (one.engine, one.dtype, one.quantization, one.method)
        # The engine makes more of a difference than all the others.
        return sum((3 if place == 0 else 1) * (a == b) for place, (a, b) in enumerate(zip(wanted, known, strict=True)))

    nearest = sorted(found, key=likeness, reverse=True)[:_NEAREST]
    best = likeness(nearest[0])
    alike = [one for one in nearest if likeness(one) == best]
    rate = statistics.median(one.rate for one in alike)
    plural = "run" if len(alike) == 1 else "runs"
    return Speed(rate, f"measured in {len(alike)} {plural} on this machine")


def _engine(studio: Studio, recipe: Recipe) -> str:
    """The engine that a CPU would take."""
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
    return "slow" if fast else "emulated"  # the fast path multiplies in float32 there


def _slower(recipe: Recipe) -> float:
    dora = _DORA if recipe.method.method == "lora" and recipe.method.use_dora else 1.0
    return dora * (_QUANTIZED if recipe.quantization.quantization != "none" else 1.0)


def _runs(studio: Studio) -> list[Past]:
    """The owner's runs that have a speed; asked again after a while."""
    mine, owner = studio.state(_Remembered).by_owner, studio.owner
    kept = mine.get(owner)
    if kept is not None and time.monotonic() - kept[0] < _KEPT_SECONDS:
        return kept[1]
    found = [past for row in rows.every(studio.database, studio.owner) if (past := _read(studio, row)) is not None]
    while len(mine) >= _OWNERS:
        mine.pop(next(iter(mine)), None)
    mine[owner] = (time.monotonic(), found)
    return found


@functools.lru_cache(maxsize=2048)
def _recipe(text: str) -> Recipe:
    """A run's recipe never changes, and reading hundreds of them takes a second."""
    return Recipe.parse(yaml.safe_load(text), "run")


def _read(studio: Studio, row: Run) -> Past | None:
    if not row.tokens_per_s or not row.recipe:
        return None
    try:
        recipe = _recipe(row.recipe)
        shape = models.shape_of(studio, row.model)
    except StudioError:
        return None  # made by another version, or its model is gone
    length = recipe.data.max_length / 2  # what its examples had on average is not kept; attention is a small part
    rate = row.tokens_per_s * flops.per_token(shape, recipe, length, 0.5)
    kind = "cpu" if row.device.upper().startswith("CPU") else "cuda"
    engine = str((row.plan or {}).get("engine", "trl"))  # runs of before it was told had the reference
    held, method = recipe.quantization.quantization, recipe.method.method
    return Past(kind, recipe.model.dtype, held, method, engine, rate)
