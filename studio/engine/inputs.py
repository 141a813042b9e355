"""What a run directory tells its worker besides the recipe: which model, which dataset. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import RunDir, read_json


@dataclass(frozen=True, slots=True)
class Inputs:
    """A run's inputs, read and found."""

    recipe: Recipe
    model: str
    model_folder: Path
    dataset: str
    dataset_folder: Path

    @classmethod
    def read(cls, run: RunDir) -> "Inputs":
        recipe = Recipe.load(run.recipe)
        model, dataset = _pointer(run.path / "model.json", "model"), _pointer(run.dataset, "dataset")
        return cls(
            recipe=recipe,
            model=str(model.get("id") or recipe.model.model),
            model_folder=_folder(model, "model"),
            dataset=str(dataset.get("name") or dataset.get("id") or recipe.data.dataset),
            dataset_folder=_folder(dataset, "dataset"),
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
