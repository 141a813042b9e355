"""A run once more, without the studio: its recipe, a script, a notebook, its rows and the exact command.

What is given is refused where the script would not give the same run, with the reason. What this does not do: run it.
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
    """A run to give away. command: with the studio; plain: without it; notes: what is to be known, in sentences."""

    run: str
    name: str
    recipe: str
    script: str
    notebook: str
    command: str
    plain: str
    notes: tuple[str, ...]


def of(studio: Studio, run_id: str) -> Reproduction:
    """The recipe, script, notebook and commands of a run; raises BadInput where they cannot be given."""
    if adapters.find(studio, run_id) is not None:
        raise BadInput("No run of this home trained this adapter, so there is no training to give away. Choose a run.")
    info = runs.get(studio, run_id.partition("@")[0])
    folder = studio.run_dir(info.id).path
    recipe = runs.recipe_of(studio, info.id)
    _check(info.name, recipe, read_json(folder / "resume.json") or {})
    model = models.get(studio, recipe.model.model)
    versions = (read_json(folder / "worker.json") or {}).get("versions")
    if not isinstance(versions, dict) or "torch" not in versions:
        raise Conflict(f"Run {info.name} has not begun, so its libraries are not known. Reproduce it once it trains.")
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
    found = of(studio, run_id)
    rows = _rows(studio, found.run)
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in _files(found, rows):
                packed.writestr(f"{found.name}/{name}", text)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def write(studio: Studio, run_id: str, out: Path) -> Path:
    """Write everything into a new folder in `out`; returns that folder."""
    found = of(studio, run_id)
    folder = out.expanduser().absolute() / f"{found.name}-reproduce"
    if folder.exists():
        raise BadInput(f"{folder} exists already. Move it away or choose another --out.")
    rows = _rows(studio, found.run)
    folder.mkdir(parents=True)
    for name, text in _files(found, rows):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def download(studio: Studio, run_id: str, form: str) -> tuple[str, Iterator[bytes]]:
    """A name and the bytes of one of FORMS."""
    if form not in FORMS:
        raise BadInput(f"A run is given as {', '.join(FORMS)}, not as {form[:20]!r}.")
    found = of(studio, run_id)
    if form != "zip":
        name, text = {
            "py": ("train.py", found.script),
            "ipynb": ("train.ipynb", found.notebook),
            "yaml": ("recipe.yaml", found.recipe),
        }[form]
        return f"{found.name}-{name}", iter([text.encode()])
    made = Path(tempfile.mkdtemp(prefix="reproduce-", dir=studio.settings.staging)) / "run.zip"
    archive(studio, run_id, made)
    return f"{found.name}-reproduce.zip", _read_and_remove(made)


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
            f"Run {name} begins by loftq as the studio computes it, and PEFT's own differs: a plain script would be "
            "another run. Its recipe gives the same run in the studio."
        )
    if method.method == "lora" and method.use_dora and recipe.quantization.quantization == "int8":
        raise BadInput(
            f"Run {name} trains DoRA on 8 bits, which needs a mend of bitsandbytes that a plain script has not. Its "
            "recipe gives the same run in the studio."
        )
    if any(resume.get(key) is not None for key in ("num_train_epochs", "max_steps")):
        raise BadInput(
            f"Run {name} was made longer when it went on: its learning rate followed two schedules, and one script has "
            "one. Train it anew with the new length to reproduce it."
        )


def _notes(recipe: Recipe, origin: dict[str, Any], source: str) -> Iterator[str]:
    yield (
        "train.jsonl holds the rows in the order of training, each with the tokens that are trained; held_out.jsonl, "
        "where it is, is measured once, at the end."
    )
    if recipe.evaluation.early_stopping_patience:
        yield "The run could stop early by its held-out loss. The script does not: give --steps."
    if recipe.method.method == "lora" and recipe.method.init_lora_weights in ("pissa", "olora"):
        yield f"It begins by {recipe.method.init_lora_weights}, which changes the base: what is saved fits that base."
    made = str(origin.get("made_from") or source)
    if made != source:
        yield (
            f"The run's base was made from {made}. With the hub's own weights losses differ a little; give the folder "
            "of the run's with --model to have the same."
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        yield "The base lies in a folder of the machine that the run was trained on: give yours with --model."
    yield "A step whose loss is not a number is skipped by the studio and taken by the script."


def _packages(recipe: Recipe, versions: dict[str, Any]) -> list[str]:
    wanted = [*_LIBRARIES]
    if recipe.quantization.quantization != "none" or recipe.optimizer.optim != "adamw_torch":
        wanted.append("bitsandbytes")
    # Which build of torch it was (+cpu, +cu128) is the machine's.
    return [f"{name}=={str(versions[name]).partition('+')[0]}" for name in wanted if versions.get(name)]


def _rows(studio: Studio, run_id: str) -> PlainRows:
    run = studio.run_dir(run_id)
    pointer = read_json(run.dataset) or {}
    folder = studio.settings.datasets / str(pointer.get("id"))
    if not pointer.get("id") or not folder.is_dir():
        raise BadInput(f"The dataset of this run, {pointer.get('name', 'unknown')}, is gone. Add the same file again.")
    recipe = Recipe.load(run.recipe)
    return plain_rows(folder, recipe, models.folder_of(studio, recipe.model.model))


def _files(found: Reproduction, rows: PlainRows) -> Iterator[tuple[str, str]]:
    yield "train.py", found.script
    yield "train.ipynb", found.notebook
    yield "recipe.yaml", found.recipe
    yield "README.md", _readme(found)
    yield "train.jsonl", _lines(rows.train)
    if rows.held_out:
        yield "held_out.jsonl", _lines(rows.held_out)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _readme(found: Reproduction) -> str:
    return (
        f"# {found.name}, once more\n\n"
        f"Without the studio, with the exact versions in the head of train.py:\n\n```sh\n{found.plain}\n```\n\n"
        "It prints every loss and writes `out/losses.json` and the adapter. `--steps 10` ends after ten steps of the "
        "same schedule.\n\n"
        f"With the studio, where the dataset is added:\n\n```sh\n{found.command}\n```\n\n"
        + "\n".join(found.notes)
        + "\n"
    )
