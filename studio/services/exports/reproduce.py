"""Reproduce a run without the studio: its recipe, a script, a notebook, its rows and the exact command.

A run whose script would not give the same run is refused, with the reason. Nothing is run here.
"""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.dataset.tokens.replay_rows import PlainRows, plain_rows
from studio.errors import BadInput, Conflict
from studio.recipe import Recipe
from studio.rundir import read_json
from studio.services.core.studio import Studio
from studio.services.exports import downloads, trl_script
from studio.services.exports.trl_script import Facts
from studio.services.models import adapters, models
from studio.services.runs import runs

_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers")
_CHUNK = 2**20
FORMS = {"zip": "application/zip", "py": "text/x-python", "ipynb": "application/x-ipynb+json", "yaml": "text/yaml"}


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A run to share. command: with the studio; plain: without it; notes: what to know about it, in sentences."""

    run: str
    name: str
    recipe: str
    script: str
    notebook: str
    command: str
    plain: str
    notes: tuple[str, ...]


def of(studio: Studio, run_id: str) -> Reproduction:
    """The recipe, script, notebook and commands of a run; raises BadInput if it cannot be reproduced."""
    if adapters.find(studio, run_id) is not None:
        raise BadInput("No run of this home trained this adapter, so there is no training to reproduce. Choose a run.")
    info = runs.get(studio, run_id.partition("@")[0])
    folder = studio.run_dir(info.id).path
    recipe = runs.recipe_of(studio, info.id)
    _check(info.name, recipe, read_json(folder / "resume.json") or {})
    model = models.get(studio, recipe.model.model)
    versions = (read_json(folder / "worker.json") or {}).get("versions")
    if not isinstance(versions, dict) or "torch" not in versions:
        raise Conflict(f"Run {info.name} has not started, so its libraries are not known. Reproduce it once it trains.")
    notes = tuple(_notes(recipe, read_json(Path(model.path) / "studio.json") or {}, model.source))
    facts = Facts(
        name=info.name,
        model=model.source,
        packages=_packages(recipe, versions),
        python=f">={'.'.join(str(versions.get('python', '3.11')).split('.')[:2])}",
        linear=list(models.linear_modules(studio, recipe.model.model)),
        notes=notes,
    )
    return Reproduction(
        run=info.id,
        name=downloads.ascii_name(info.name),
        recipe=recipe.to_yaml(),
        script=trl_script.script(recipe, facts),
        notebook=trl_script.notebook(recipe, facts),
        command="studio train recipe.yaml --follow",
        plain="uv run train.py",
        notes=notes,
    )


def archive(studio: Studio, run_id: str, target: Path) -> Path:
    """Write everything as one zip, whole or not at all."""
    reproduction = of(studio, run_id)
    rows = _rows(studio, reproduction.run)
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in _files(reproduction, rows):
                packed.writestr(f"{reproduction.name}/{name}", text)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def write(studio: Studio, run_id: str, out: Path) -> Path:
    """Write everything into a new folder in `out`; returns that folder."""
    reproduction = of(studio, run_id)
    folder = out.expanduser().absolute() / f"{reproduction.name}-reproduce"
    if folder.exists():
        raise BadInput(f"{folder} exists already. Move it away or choose another --out.")
    rows = _rows(studio, reproduction.run)
    folder.mkdir(parents=True)
    for name, text in _files(reproduction, rows):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def download(studio: Studio, run_id: str, form: str) -> tuple[str, Iterator[bytes]]:
    """The name and the bytes of a download in one of FORMS."""
    if form not in FORMS:
        raise BadInput(f"A run can be downloaded as {', '.join(FORMS)}, not as {form[:20]!r}.")
    reproduction = of(studio, run_id)
    if form != "zip":
        name, text = {
            "py": ("train.py", reproduction.script),
            "ipynb": ("train.ipynb", reproduction.notebook),
            "yaml": ("recipe.yaml", reproduction.recipe),
        }[form]
        return f"{reproduction.name}-{name}", iter([text.encode()])
    path = Path(tempfile.mkdtemp(prefix="reproduce-", dir=studio.settings.staging)) / "run.zip"
    archive(studio, run_id, path)
    return f"{reproduction.name}-reproduce.zip", _read_and_remove(path)


def _read_and_remove(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def _check(name: str, recipe: Recipe, resume: dict[str, Any]) -> None:
    """Raise BadInput where a plain script would not give the same run."""
    method = recipe.method
    if method.method == "lora" and method.init_lora_weights == "loftq":
        raise BadInput(
            f"Run {name} is initialised with loftq as the studio computes it, and PEFT's own differs: a plain script "
            "would be another run. Its recipe gives the same run in the studio."
        )
    if method.method == "lora" and method.use_dora and recipe.quantization.quantization == "int8":
        raise BadInput(
            f"Run {name} trains DoRA on 8 bits, which needs a fix of bitsandbytes that a plain script does not have. "
            "Its recipe gives the same run in the studio."
        )
    if any(resume.get(key) is not None for key in ("num_train_epochs", "max_steps")):
        raise BadInput(
            f"Run {name} was made longer when it was resumed: its learning rate followed two schedules, and a script "
            "has only one. Train it again with the new length to reproduce it."
        )


def _notes(recipe: Recipe, origin: dict[str, Any], source: str) -> Iterator[str]:
    yield (
        "train.jsonl contains the rows in the order of training, each with the tokens that are trained; "
        "held_out.jsonl, if present, is evaluated once, at the end."
    )
    if recipe.evaluation.early_stopping_patience:
        yield "The run could stop early by its held-out loss. The script does not: pass --steps."
    if recipe.method.method == "lora" and recipe.method.init_lora_weights in ("pissa", "olora"):
        yield (
            f"It is initialised with {recipe.method.init_lora_weights}, which changes the base: the saved adapter fits "
            "only the changed base."
        )
    made_from = str(origin.get("made_from") or source)
    if made_from != source:
        yield (
            f"The run's base was made from {made_from}. With the hub's own weights the losses differ slightly; pass "
            "the folder of the run's base with --model to get the same losses."
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        yield "The base is in a folder of the machine that the run was trained on: pass yours with --model."
    yield "The studio skips a step whose loss is not a number; the script does not."


def _packages(recipe: Recipe, versions: dict[str, Any]) -> list[str]:
    names = [*_LIBRARIES]
    if recipe.quantization.quantization != "none" or recipe.optimizer.optim != "adamw_torch":
        names.append("bitsandbytes")
    # The build of torch (+cpu, +cu128) depends on the machine.
    return [f"{name}=={str(versions[name]).partition('+')[0]}" for name in names if versions.get(name)]


def _rows(studio: Studio, run_id: str) -> PlainRows:
    run = studio.run_dir(run_id)
    pointer = read_json(run.dataset) or {}
    folder = studio.settings.datasets / str(pointer.get("id"))
    if not pointer.get("id") or not folder.is_dir():
        raise BadInput(f"The dataset of this run, {pointer.get('name', 'unknown')}, is gone. Add the same file again.")
    recipe = Recipe.load(run.recipe)
    return plain_rows(folder, recipe, models.folder_of(studio, recipe.model.model))


def _files(reproduction: Reproduction, rows: PlainRows) -> Iterator[tuple[str, str]]:
    yield "train.py", reproduction.script
    yield "train.ipynb", reproduction.notebook
    yield "recipe.yaml", reproduction.recipe
    yield "README.md", _readme(reproduction)
    yield "train.jsonl", _lines(rows.train)
    if rows.held_out:
        yield "held_out.jsonl", _lines(rows.held_out)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _readme(reproduction: Reproduction) -> str:
    return (
        f"# Reproduce {reproduction.name}\n\n"
        "Without the studio, with the exact versions listed at the top of train.py:\n\n"
        f"```sh\n{reproduction.plain}\n```\n\n"
        "It prints every loss and writes `out/losses.json` and the adapter. `--steps 10` stops after ten steps of the "
        "same schedule.\n\n"
        f"With the studio, after adding the dataset:\n\n```sh\n{reproduction.command}\n```\n\n"
        + "\n".join(reproduction.notes)
        + "\n"
    )
