"""What a run directory tells its worker besides the recipe: which model, which dataset, where to go on. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import RunDir, read_json


@dataclass(frozen=True, slots=True)
class Resume:
    """What resume.json tells a worker that is not the first of its run.

    checkpoint: to go on from, relative to the run's directory; empty when there is none, to begin anew.
    num_train_epochs, max_steps: instead of the recipe's, to train longer.
    """

    attempt: int
    checkpoint: str = ""
    num_train_epochs: float | None = None
    max_steps: int | None = None

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        """None for a run's first worker."""
        if not run.resume.exists():
            return None
        try:
            told = cls(**(read_json(run.resume) or {}))
        except TypeError:
            raise BadInput(f"{run.resume.name} of this run cannot be read. Resume the run once more.") from None
        folder = Path(told.checkpoint)
        if told.checkpoint and (
            folder.is_absolute() or ".." in folder.parts or folder.parts[0] != run.checkpoints.name
        ):
            raise BadInput(f"{told.checkpoint} is no checkpoint of this run. Resume the run once more.")
        return told

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with the new length."""
        values: dict[str, Any] = {}
        if self.num_train_epochs is not None:
            # max_steps would overrule the epochs that were asked for.
            values = {"num_train_epochs": self.num_train_epochs, "max_steps": -1}
        if self.max_steps is not None:
            values["max_steps"] = self.max_steps
        return recipe.with_values(values) if values else recipe


@dataclass(frozen=True, slots=True)
class Inputs:
    """A run's inputs, read and found. resume: None for its first worker; tokens: where those of datasets are kept."""

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
