"""Sides of a comparison: a base model, or a model trained on it.

Written as `base`, or as a source (services/models/trained_weights.py): `RUN`, `RUN@STEP`, or an adapter of the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.recipe.fields import Data
from studio.rundir import MANIFEST
from studio.services.core.studio import Studio
from studio.services.models import models, trained_weights

BASE = "base"
MOST = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison.

    written: as requested; key: `base` or the source's key, the same for the same weights; title and words: for people;
    dtype: the type it answers in; data: the formatting of its prompts; folder: the trained weights, None for the base.
    """

    written: str
    key: str
    title: str
    words: str
    model: str
    dtype: str
    data: Data
    folder: Path | None = None

    @property
    def identity(self) -> tuple[str, int]:
        """Identifies these weights, also against earlier ones in the same folder."""
        return ("", 0) if self.folder is None else (str(self.folder), (self.folder / MANIFEST).stat().st_mtime_ns)


def choices(studio: Studio) -> list[tuple[str, str]]:
    """Everything that can be compared with a base, as label and written form."""
    return trained_weights.choices(studio)


def resolve(studio: Studio, written: Sequence[str]) -> list[Side]:
    """The sides of a comparison; raises BadInput or Conflict with the reason when they cannot be compared."""
    wanted = [text.strip() for text in written if text and text.strip()]
    if not wanted:
        raise BadInput("Choose who answers first.")
    if len(wanted) > MOST:
        raise BadInput(f"At most {MOST} can answer side by side, not {len(wanted)}.")
    adapted = {text: _adapted(studio, text) for text in dict.fromkeys(wanted) if text != BASE}
    if not adapted:
        raise BadInput("Choose a run: the base answers only next to a model trained on it.")
    first = next(iter(adapted.values()))
    other = next((side for side in adapted.values() if side.model != first.model), None)
    if other is not None:
        raise BadInput(
            f"{first.title} was trained on {first.model} and {other.title} on {other.model}. Choose runs of one base: "
            "only one is in memory at a time."
        )
    base = Side(BASE, BASE, "Base", first.model, first.model, first.dtype, first.data)
    sides = [adapted.get(text, base) for text in wanted]
    if len({side.key for side in sides}) < len(sides):
        raise BadInput("The same weights are chosen twice. Choose another checkpoint or run for one of them.")
    return sides


def _adapted(studio: Studio, written: str) -> Side:
    source = trained_weights.find(studio, written)
    dtype = models.answers_in(studio, source.model, source.recipe.model.dtype)
    return Side(written, source.key, source.title, source.words, source.model, dtype, source.recipe.data, source.folder)
