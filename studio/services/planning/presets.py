"""Presets: named sets of recipe values with the reason for them, read from `data/presets/`."""

import contextlib
from dataclasses import dataclass
from typing import Any

import yaml

from studio import resources
from studio.errors import NotFound, StudioError
from studio.recipe import Recipe
from studio.services.core.studio import Studio
from studio.services.planning import estimates

# In the order in which a newcomer meets them.
_ORDER = ("sample", "balanced", "best-quality", "smallest-memory", "quick-try")


@dataclass(frozen=True, slots=True)
class Preset:
    """values: recipe field name to value; a field that is not named keeps its default."""

    id: str
    title: str
    why: str
    values: dict[str, Any]


def list_presets(_studio: Studio) -> list[Preset]:
    """All presets, the sample first."""
    return [_read(name) for name in _ORDER]


def get(_studio: Studio, preset_id: str) -> Preset:
    """The preset called `preset_id`; raises NotFound with the known ones."""
    if preset_id not in _ORDER:
        raise NotFound(f"There is no preset {preset_id!r}. Known: {', '.join(_ORDER)}.")
    return _read(preset_id)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a preset takes on this machine: peak bytes, whether they are free, and minutes to the end (0: not known)."""

    bytes: int
    fits: bool
    minutes: float


def costs(studio: Studio, model: str, dataset: str) -> dict[str, Cost]:
    """What each preset would cost for this model and dataset, by its id; those that cannot be are left out."""
    found = {}
    for preset in list_presets(studio):
        with contextlib.suppress(StudioError):
            recipe = Recipe().with_values({"model": model, "dataset": dataset, **preset.values})
            told = estimates.estimate(studio, recipe)
            found[preset.id] = Cost(told.total, told.fits, told.minutes)
    return found


def _read(name: str) -> Preset:
    told = yaml.safe_load((resources.data() / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(name, told["title"], told["why"], told["values"])
