"""Presets: named sets of recipe values with a reason, read from `data/presets/`."""

import contextlib
from dataclasses import dataclass
from typing import Any

import yaml

from studio import resources
from studio.errors import NotFound, StudioError
from studio.recipe import Recipe
from studio.services.core.studio import Studio
from studio.services.planning import estimates

# In the order in which they are shown.
_ORDER = ("sample", "balanced", "best-quality", "smallest-memory", "quick-try")


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of recipe values. values: field name to value; other fields keep their defaults."""

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
    """Cost of a preset on this machine: peak bytes, whether they fit, and minutes of training (0: not known)."""

    bytes: int
    fits: bool
    minutes: float


def costs(studio: Studio, model: str, dataset: str) -> dict[str, Cost]:
    """Cost of each preset for this model and dataset, by id; presets that cannot be used are left out."""
    by_id = {}
    for preset in list_presets(studio):
        with contextlib.suppress(StudioError):
            recipe = Recipe().with_values({"model": model, "dataset": dataset, **preset.values})
            estimate = estimates.estimate(studio, recipe)
            by_id[preset.id] = Cost(estimate.total, estimate.fits, estimate.minutes)
    return by_id


def _read(name: str) -> Preset:
    content = yaml.safe_load((resources.data() / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(name, content["title"], content["why"], content["values"])
