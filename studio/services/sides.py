"""Who can answer in a comparison: a base model, what a run learned, or what it had learned at a checkpoint.

Written as `base`, `RUN` and `RUN@STEP`. A checkpoint is read only after all its files were found to be as its manifest
says; of a run that still trains, its newest one stands for the run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.errors import BadInput, Conflict
from studio.rundir import MANIFEST, RunDir, newest_checkpoint, verify_folder
from studio.services import ends, models, runs
from studio.themes import Data

if TYPE_CHECKING:
    from studio.services.runs import RunInfo
    from studio.services.studio import Studio

BASE = "base"
MOST = 3
_WRITTEN = re.compile(r"(?P<run>[^@\s]+)(?:@(?P<step>\d+))?")


@dataclass(frozen=True, slots=True)
class Side:
    """Who answers. written: as it was asked for; key: `base` or `RUN@STEP`, the same for the same weights; title and
    words: for people; data: the formatting in which it is asked; folder: what was trained, None for the base."""

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
        """What tells these weights from others that lay in the same folder before."""
        return ("", 0) if self.folder is None else (str(self.folder), (self.folder / MANIFEST).stat().st_mtime_ns)


def choices(studio: "Studio") -> list[tuple[str, str]]:
    """Everything that can answer beside a base, as label and written form: runs newest first, each with its
    checkpoints. Whether a checkpoint is whole is found out when it is asked."""
    found = []
    for info in runs.list_runs(studio):
        steps = ends.checkpoint_steps(studio.run_dir(info.id))
        if info.has_adapter:
            found.append((f"{info.name}, step {info.step}", info.id))
        elif steps:
            found.append((f"{info.name}, newest checkpoint", info.id))
        found += [(f"{info.name}, checkpoint {step}", f"{info.id}@{step}") for step in reversed(steps)]
    return found


def resolve(studio: "Studio", written: Sequence[str]) -> list[Side]:
    """The sides of a comparison; raises BadInput or Conflict with the reason when they cannot stand side by side."""
    wanted = [text.strip() for text in written if text and text.strip()]
    if not wanted:
        raise BadInput("Choose who answers first.")
    if len(wanted) > MOST:
        raise BadInput(f"At most {MOST} can answer side by side, not {len(wanted)}.")
    adapted = {text: _adapted(studio, text) for text in dict.fromkeys(wanted) if text != BASE}
    if not adapted:
        raise BadInput("Choose a run: the base answers beside what was trained on it.")
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


def _adapted(studio: "Studio", written: str) -> Side:
    match = _WRITTEN.fullmatch(written)
    if match is None:
        raise BadInput(f"{written!r} names nobody who could answer: write base, RUN or RUN@STEP.")
    info = runs.get(studio, match["run"])
    run, recipe = studio.run_dir(info.id), runs.recipe_of(studio, info.id)
    runs.refuse_trashed(run, info.name)
    models.get(studio, recipe.model.model)
    folder, step = _folder(info, run, match["step"])
    words = f"{info.model} + {info.name}, step {step}"
    key, title = f"{info.id}@{step}", f"{info.name}, step {step}"
    return Side(written, key, title, words, info.model, recipe.model.dtype, recipe.data, folder)


def _folder(info: "RunInfo", run: RunDir, step: str | None) -> tuple[Path, int]:
    """Where the weights lie that were asked for, and after which step they were saved."""
    if step is not None:
        folder = run.checkpoints / f"step-{int(step)}"
        if not (folder / MANIFEST).is_file():
            there = ", ".join(map(str, ends.checkpoint_steps(run))) or "none"
            raise BadInput(f"Run {info.name} has no checkpoint of step {step}. It has: {there}.")
        fault = verify_folder(folder)
        if fault is not None:
            raise Conflict(f"The checkpoint of step {step} of run {info.name} cannot be used: {fault}")
        return folder, int(step)
    if run.trained is not None:
        return run.trained, info.step
    newest = newest_checkpoint(run)
    if newest is None:
        raise Conflict(
            f"Run {info.name} has no adapter yet: it is {info.state}. Wait until it has finished or stop it."
        )
    return newest, int(newest.name.removeprefix("step-"))
