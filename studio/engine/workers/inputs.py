"""A run's inputs besides its recipe: base model, dataset, and the checkpoint to resume from. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import RunDir, read_json


@dataclass(frozen=True, slots=True)
class Resume:
    """The contents of resume.json, read by every worker of a run but its first.

    checkpoint: the folder to resume from, relative to the run directory; empty to start from step 0.
    num_train_epochs, max_steps: replace the recipe's, to train longer.
    """

    attempt: int
    checkpoint: str = ""
    num_train_epochs: float | None = None
    max_steps: int | None = None

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        """Read resume.json; None for a run's first worker, which has none."""
        if not run.resume.exists():
            return None
        try:
            resume = cls(**(read_json(run.resume) or {}))
        except TypeError:
            raise BadInput(f"{run.resume.name} of this run cannot be read. Resume the run again.") from None
        folder = Path(resume.checkpoint)
        if resume.checkpoint and (
            folder.is_absolute() or ".." in folder.parts or folder.parts[0] != run.checkpoints.name
        ):
            raise BadInput(f"{resume.checkpoint} is not a checkpoint of this run. Resume the run again.")
        return resume

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the new length."""
        values: dict[str, Any] = {}
        if self.num_train_epochs is not None:
            # max_steps would override the requested epochs.
            values = {"num_train_epochs": self.num_train_epochs, "max_steps": -1}
        if self.max_steps is not None:
            values["max_steps"] = self.max_steps
        return recipe.with_values(values) if values else recipe


@dataclass(frozen=True, slots=True)
class Inputs:
    """A run's inputs with resolved paths.

    resume: None for the run's first worker; tokens: folder of the token cache of datasets.
    """

    recipe: Recipe
    model: str
    model_folder: Path
    dataset: str
    dataset_folder: Path
    resume: Resume | None = None
    tokens: Path | None = None

    @classmethod
    def read(cls, run: RunDir) -> "Inputs":
        recipe, resume = Recipe.load(run.recipe), Resume.read(run)
        model, dataset = _pointer(run.path / "model.json", "model"), _pointer(run.dataset, "dataset")
        return cls(
            recipe=resume.applied(recipe) if resume else recipe,
            model=str(model.get("id") or recipe.model.model),
            model_folder=_folder(model, "model"),
            dataset=str(dataset.get("name") or dataset.get("id") or recipe.data.dataset),
            dataset_folder=_folder(dataset, "dataset"),
            resume=resume,
            tokens=Path(dataset["tokens"]) if isinstance(dataset.get("tokens"), str) else None,
        )


def _pointer(path: Path, what: str) -> dict[str, Any]:
    value = read_json(path)
    if value is None or not isinstance(value.get("path"), str):
        raise BadInput(f"{path.name} of this run does not say where its {what} is. Start a new run.")
    return value


def _folder(pointer: dict[str, Any], what: str) -> Path:
    folder = Path(pointer["path"])
    if not folder.is_dir():
        raise BadInput(f"The {what} of this run is gone: there is no folder {folder}. Add it again.")
    return folder
