"""Sources: trained weights that can be asked, evaluated, exported and combined.

Written as `RUN`, `RUN@STEP` for a checkpoint of a run, or the id or name of an adapter of the store (adapters.py). A
checkpoint is used only after all its files were checked against its manifest.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.dataset.record import Record
from studio.dataset.split import held_out_rows
from studio.dataset.store import read_records
from studio.errors import BadInput, Conflict, NotFound
from studio.recipe import Recipe
from studio.rundir import MANIFEST, RunDir, newest_checkpoint, read_json, verify_folder
from studio.services.core.studio import Studio
from studio.services.models import adapters, models
from studio.services.models.adapters import AdapterInfo
from studio.services.runs import ends, runs

_WRITTEN = re.compile(r"(?P<run>[^@\s][^@]*?)(?:@(?P<step>\d+))?")


@dataclass(frozen=True, slots=True)
class Source:
    """Trained weights. written: as requested; key: the same for the same weights; title and words: for people.

    run: the directory with its recipe and dataset; folder: the adapter, or the model if every weight was trained;
    step: the step after which it was saved, None for adapters that no run trained.
    """

    written: str
    id: str
    name: str
    step: int | None
    words: str
    model: str
    recipe: Recipe
    run: RunDir
    folder: Path

    @property
    def key(self) -> str:
        return self.id if self.step is None else f"{self.id}@{self.step}"

    @property
    def title(self) -> str:
        return self.name if self.step is None else f"{self.name}, step {self.step}"


def choices(studio: Studio) -> list[tuple[str, str]]:
    """All sources as label and written form: adapters of the store, then runs, newest first, with their checkpoints.

    Whether a checkpoint is whole is checked when it is used.
    """
    labelled = [(_label(info), info.id) for info in adapters.list_adapters(studio) if info.has_adapter]
    for info in runs.list_runs(studio):
        steps = ends.checkpoint_steps(studio.run_dir(info.id))
        if info.has_adapter:
            labelled.append((f"{info.name}, step {info.step}", info.id))
        elif steps:
            labelled.append((f"{info.name}, newest checkpoint", info.id))
        labelled += [(f"{info.name}, checkpoint {step}", f"{info.id}@{step}") for step in reversed(steps)]
    return labelled


def _label(info: AdapterInfo) -> str:
    return f"{info.name}, {'draft' if info.draft else info.kind}"


def find(studio: Studio, written: str, newest: bool = True) -> Source:
    """The source with this written form. newest: use the newest checkpoint of a run that is still training.

    Raises NotFound when there is no such source, Conflict when it is not whole.
    """
    match = _WRITTEN.fullmatch(written.strip())
    if match is None:
        raise BadInput(f"{written!r} is not a source: write RUN, RUN@STEP or the name of an adapter.")
    known = adapters.find(studio, match["run"])
    if known is not None:
        return _adapter_source(studio, written, known, match["step"])
    info = runs.get(studio, match["run"])
    run, recipe = studio.run_dir(info.id), runs.recipe_of(studio, info.id)
    runs.refuse_trashed(run, info.name)
    models.get(studio, recipe.model.model)
    folder, step = _folder(info, run, match["step"], newest)
    return Source(
        written, info.id, info.name, step, f"{info.model} + {info.name}, step {step}", info.model, recipe, run, folder
    )


def _adapter_source(studio: Studio, written: str, info: AdapterInfo, step: str | None) -> Source:
    if step is not None:
        raise BadInput(f"{info.name} is not a run: it has no checkpoints. Leave @{step} out.")
    run = RunDir(studio.settings.adapters / info.id)
    if run.trained is None:
        raise Conflict(f"{info.name} is not whole: {info.message or info.state}. Make it again.")
    models.get(studio, info.model)
    words = f"{info.model} + {info.name} ({info.words})"
    return Source(written, info.id, info.name, None, words, info.model, Recipe.load(run.recipe), run, run.trained)


def _folder(info: "runs.RunInfo", run: RunDir, step: str | None, newest: bool) -> tuple[Path, int]:
    """Folder of the requested weights, and the step after which they were saved."""
    if step is not None:
        folder = run.checkpoints / f"step-{int(step)}"
        if not (folder / MANIFEST).is_file():
            there = ", ".join(map(str, ends.checkpoint_steps(run))) or "none"
            raise NotFound(f"Run {info.name} has no checkpoint of step {step}. It has: {there}.")
        fault = verify_folder(folder)
        if fault is not None:
            raise Conflict(f"The checkpoint of step {step} of run {info.name} cannot be used: {fault}")
        return folder, int(step)
    if run.trained is not None:
        return run.trained, info.step
    last = newest_checkpoint(run) if newest else None
    if last is None:
        raise Conflict(
            f"Run {info.name} has no adapter yet: it is {info.state}. Wait until it has finished or stop it, or name "
            f"one of its checkpoints, {info.id}@STEP."
        )
    return last, int(last.name.removeprefix("step-"))


def held_out(studio: Studio, key: str, limit: int = sys.maxsize) -> list[Record]:
    """Examples of a source's dataset that none of its parts was trained on, in dataset order. key: an id."""
    key = key.partition("@")[0]
    info = adapters.find(studio, key)
    run = RunDir(studio.settings.adapters / info.id) if info else studio.run_dir(runs.get(studio, key).id)
    pointer = read_json(run.dataset) or {}
    folder = studio.settings.datasets / str(pointer.get("id"))
    if not pointer.get("id") or not folder.is_dir():
        return []
    recipe = Recipe.load(run.recipe)
    records = read_records(folder)
    out = held_out_rows(records, recipe.data.held_out, recipe.schedule.seed)
    unseen = [record for record in records if record.held_out or record.row in out]
    for parent in _parents(info):
        # A row that one parent was trained on is not held out for the combined adapter.
        trained = _trained_rows(studio, parent, str(pointer.get("id")))
        unseen = [record for record in unseen if record.row not in trained]
    return unseen[:limit]


def _parents(info: "AdapterInfo | None") -> Sequence[str]:
    return [] if info is None else [str(parent["id"]) for parent in info.origin.get("parents", [])]


def _trained_rows(studio: Studio, key: str, dataset: str) -> set[int]:
    """Rows of a dataset that this source, or any of its parts, was trained on; empty if its run is gone."""
    key = key.partition("@")[0]
    info = adapters.find(studio, key)
    if info is not None:
        return {row for parent in _parents(info) for row in _trained_rows(studio, parent, dataset)}
    run = studio.run_dir(key)
    if not run.recipe.is_file() or (read_json(run.dataset) or {}).get("id") != dataset:
        return set()
    recipe = Recipe.load(run.recipe)
    records = read_records(studio.settings.datasets / dataset)
    out = held_out_rows(records, recipe.data.held_out, recipe.schedule.seed)
    return {record.row for record in records if not record.held_out and record.row not in out}
