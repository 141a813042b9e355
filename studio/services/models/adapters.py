"""Adapters of this home that no run trained: combined from several, or imported.

Each has a directory laid out like a run's, so that code that reads a run directory can read it too:

    adapters/<id>/
      about.json     name, owner, created, notes; kind: combined | imported; draft: not kept yet
      origin.json    where it comes from. combined: {"parents": [{"id", "name", "weight"}], "method", "density"};
                     imported: {"from", "licence", …}, as the importer writes it
      model.json     {"id": the base's name in this home, "path": its folder}
      recipe.yaml    how it is asked (the data part) and the type of its base's weights; not how it was trained
      dataset.json   the dataset whose held-out rows it is evaluated on; may be missing
      adapter/       what is loaded: PEFT's layout and the tokenizer, with MANIFEST.json; model/ for a whole model
      events.jsonl … if a worker made it (engine/workers/combine.py), as in any run directory

An id begins with `a`, so it never equals a run's; it is accepted wherever RUN is (trained_weights.py). Combining
(combining.py), checking foreign files and training are done elsewhere.
"""

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.errors import BadInput, Conflict, NotFound
from studio.launch import workers
from studio.recipe import Recipe
from studio.rundir import (
    RunDir,
    create,
    free_space_or_raise,
    read_json,
    vanish,
    whole_folder,
    write_json,
)
from studio.services.core import access, identity
from studio.services.core.jobs import Job, KeptJob
from studio.services.core.states import FINAL, State
from studio.services.core.studio import Studio
from studio.services.models import models

Kind = Literal["combined", "imported"]
_ID = re.compile(r"a\d{6}-\d{6}-[0-9a-f]{6,16}")
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter of the store as lists show it; size in bytes.

    origin: the content of origin.json; has_adapter: it is whole and can be used. draft: temporary unless it is kept.
    """

    id: str
    name: str
    kind: Kind
    state: State
    doing: str
    message: str
    model: str
    draft: bool
    size: int
    created: float
    path: str
    has_adapter: bool
    origin: dict[str, Any]

    @property
    def words(self) -> str:
        """Where it comes from, as part of a sentence."""
        if self.kind == "combined":
            parts = [f"{parent['weight']:g} × {parent['name']}" for parent in self.origin.get("parents", [])]
            return f"{' + '.join(parts)}, {self.origin.get('method', '')}"
        return f"from {self.origin.get('from') or 'elsewhere'}"


@dataclass(frozen=True, slots=True)
class New:
    """A new entry of the store.

    recipe: how it is asked, with the base's name; dataset: the content of dataset.json, if it is to be evaluated on a
    dataset's held-out rows.
    """

    name: str
    kind: Kind
    recipe: Recipe
    origin: Mapping[str, Any]
    dataset: Mapping[str, Any] | None = None
    draft: bool = False


def put(studio: Studio, new: New, contents: Path | None = None, folder: str = "adapter") -> AdapterInfo:
    """Create a directory of the store, whole or not at all.

    contents: a folder whose files become its `folder` (adapter, or model for a whole model); without it, a worker
    writes that later. Names in use get a number. Raises NotFound when this home does not have the base.
    """
    base = models.get(studio, new.recipe.model.model)
    root = studio.settings.adapters
    adapter_id = f"a{identity.new_id(studio)}"
    name = _free_name(studio, new.name)
    about = {
        "name": name,
        "owner": studio.owner,
        "created": time.time(),
        "notes": "",
        "kind": new.kind,
        "draft": new.draft,
    }
    files: dict[str, Any] = {
        "about.json": about,
        "origin.json": new.origin,
        "model.json": {"id": base.id, "path": base.path},
    }
    if new.dataset is not None:
        files["dataset.json"] = new.dataset
    texts = {name: json.dumps(value, ensure_ascii=False, indent=1) + "\n" for name, value in files.items()}
    texts["recipe.yaml"] = new.recipe.with_values({"name": name}).to_yaml()
    if contents is None:
        create(root, adapter_id, texts)
        return get(studio, adapter_id)
    free_space_or_raise(root, _size(contents) + 2**20, f"Adding {name}")
    # Built under a hidden name, so that it appears in the list whole or not at all.
    aside = create(root, f".{adapter_id}", texts)
    try:
        with whole_folder(aside.path / folder) as inside:
            for path in sorted(contents.iterdir()):
                if path.is_file():
                    shutil.copyfile(path, inside / path.name)
        aside.path.rename(root / adapter_id)
    except BaseException:
        shutil.rmtree(aside.path, ignore_errors=True)
        raise
    return get(studio, adapter_id)


def list_adapters(studio: Studio) -> list[AdapterInfo]:
    """All adapters of the asker, newest first."""
    workers.reap()
    entries = [
        _info(studio, RunDir(path), about) for path in studio.settings.adapters.iterdir() if (about := _about(path))
    ]
    mine = [info for info, owner in entries if owner == studio.owner]
    return sorted(mine, key=lambda info: info.created, reverse=True)


def find(studio: Studio, key: str) -> AdapterInfo | None:
    """The adapter with this id, id prefix, or exact name; None if there is none."""
    infos = list_adapters(studio)
    if re.fullmatch(r"a[\d-][\w-]*", key):
        known = [info for info in infos if info.id.startswith(key)]
        if known:
            return known[0]
    return next((info for info in infos if info.name == key), None)


def get(studio: Studio, key: str) -> AdapterInfo:
    """As `find`, but raises NotFound if there is none."""
    info = find(studio, key)
    if info is None:
        raise NotFound(f"There is no adapter {key!r}. See them with: studio adapters list")
    return info


def folder_of(studio: Studio, key: str) -> RunDir:
    """The directory of an adapter that the asker owns."""
    return RunDir(studio.settings.adapters / get(studio, key).id)


def keep(studio: Studio, key: str, name: str = "") -> AdapterInfo:
    """Keep a draft, under another name if one is given."""
    info = get(studio, key)
    if not info.has_adapter:
        raise Conflict(f"{info.name} is not whole: {info.message or info.state}. It cannot be kept.")
    path = studio.settings.adapters / info.id / "about.json"
    about = (read_json(path) or {}) | {"draft": False}
    if name.strip() and name.strip() != info.name:
        about["name"] = _free_name(studio, name)
    write_json(path, about)
    return get(studio, info.id)


def remove(studio: Studio, key: str) -> AdapterInfo:
    """Delete an adapter; its exports stay. Raises Conflict while a worker makes it."""
    info = get(studio, key)
    if info.state not in FINAL:
        raise Conflict(f"{info.name} is being made. Wait until that is over, or cancel it.")
    vanish(studio.settings.adapters / info.id)
    return info


def cancel(studio: Studio, key: str) -> None:
    """Ask the worker that makes an adapter to end; nothing of it is kept. Raises Conflict when it is over."""
    info = get(studio, key)
    KeptJob(RunDir(studio.settings.adapters / info.id)).cancel(info.name)


def recipe_of(studio: Studio, key: str) -> Recipe:
    """How an adapter is asked, and the type of its base's weights."""
    return Recipe.load(folder_of(studio, key).recipe)


def _about(path: Path) -> dict[str, Any] | None:
    return read_json(path / "about.json") if _ID.fullmatch(path.name) else None


def _info(studio: Studio, run: RunDir, about: dict[str, Any]) -> tuple[AdapterInfo, str]:
    trained = run.trained
    put_whole = trained is not None and not run.exit.exists() and not run.claim.exists()
    job = Job("completed") if put_whole else KeptJob(run).look()
    info = AdapterInfo(
        id=run.id,
        name=str(about.get("name", run.id)),
        kind=about.get("kind", "imported"),
        state=job.state,
        doing=job.progress.doing,
        message=access.for_reader(studio, job.message),
        model=str((read_json(run.path / "model.json") or {}).get("id", "")),
        draft=bool(about.get("draft")),
        size=_size(trained) if trained else 0,
        created=float(about.get("created", 0)),
        path=str(run.path),
        has_adapter=trained is not None,
        origin=read_json(run.path / "origin.json") or {},
    )
    return info, str(about.get("owner", ""))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _free_name(studio: Studio, wanted: str) -> str:
    """The name, with a number appended if it is in use."""
    name = " ".join(wanted.split())
    if not name or len(name) > _LONGEST_NAME or "@" in name:
        raise BadInput(f"A name must have 1 to {_LONGEST_NAME} characters and no @, not {wanted[:100]!r}.")
    taken = {info.name for info in list_adapters(studio)}
    number = 2
    while (free := name if number == 2 and name not in taken else f"{name}-{number}") in taken:
        number += 1
    return free
