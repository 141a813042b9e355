"""Takeout: a zip of everything a visitor owns.

The disk of a hosted studio may be lost when it restarts; a takeout saves what was trained there.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from studio.dataset.record import Record
from studio.dataset.store import iter_records
from studio.rundir import MANIFEST, RunDir, read_json
from studio.services.chat import comparisons, votes
from studio.services.core import access
from studio.services.core.identity import Visitor, acting
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.evals import evaluations, prompt_sets
from studio.services.exports import exports
from studio.services.exports.downloads import Member, ascii_name, zipped
from studio.services.models import adapters, models
from studio.services.runs import runs

_CHUNK = 2**20
_DISK = Path("/data")
# Files that may contain local paths; never vocabularies, where a path may be a token.
_TELLING = ("config.json", ".md", ".yaml", "Modelfile")


def vanishes(studio: Studio) -> bool:
    """Whether the disk of this studio is lost at a restart: true on a Space without persistent storage."""
    return bool(os.environ.get("SPACE_ID")) and not studio.settings.home.is_relative_to(_DISK)


def archive(studio: Studio) -> Iterator[bytes]:
    """A zip of everything the visitor owns, generated while it is read.

    It includes trained runs and adapters with their recipes, exports, datasets as jsonl, evaluations, comparisons,
    votes and prompt sets, and no paths of this machine.
    """
    names = _Names()
    learned, gathered = _learned(studio, names), _gathered(studio, names)
    return zipped([*learned, *_exported(studio, names), *gathered, *_judged(studio, names)])


class _Names:
    """Unique names in a zip: when it is unpacked, a duplicate would overwrite the first file."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def free(self, place: str, name: str, ending: str = "") -> str:
        """`place/name` with its ending, numbered if taken. Case is ignored, as on some file systems."""
        clean = ascii_name(name)
        candidates = (f"{place}/{clean}{f'-{number}' if number > 1 else ''}{ending}" for number in count(1))
        free = next(path for path in candidates if path.lower() not in self._taken)
        self._taken.add(free.lower())
        return free


def _learned(studio: Studio, names: _Names) -> Iterator[Member]:
    for info in runs.list_runs(studio):
        run = studio.run_dir(info.id)
        folder = names.free("runs", f"{ascii_name(info.name)}-{info.id[-6:]}")
        yield f"{folder}/recipe.yaml", _file(studio, run.recipe)
        if run.trained is not None:
            yield from _inside(studio, run.trained, f"{folder}/{run.trained.name}", _base(studio, run, info.model))
    for adapter in adapters.list_adapters(studio):
        run = adapters.folder_of(studio, adapter.id)
        if run.trained is not None:
            target = f"{names.free('adapters', adapter.name)}/{run.trained.name}"
            yield from _inside(studio, run.trained, target, _base(studio, run, adapter.model))


def _exported(studio: Studio, names: _Names) -> Iterator[Member]:
    for info in exports.list_exports(studio):
        if info.path is not None:
            exported, folder = Path(info.path), names.free("exports", f"{ascii_name(info.source)}-{info.id[-6:]}")
            if exported.is_file():
                yield f"{folder}/{exported.name}", _file(studio, exported)
            else:
                model = (exports.find(studio, info.id)[1]).get("model") or {}
                base = str(model.get("path") or ""), str(model.get("id") or "")
                yield from _inside(studio, exported, f"{folder}/{exported.name}", base)


def _gathered(studio: Studio, names: _Names) -> Iterator[Member]:
    for info in datasets.list_datasets(studio):
        if datasets.owner_of(studio, info.id) == studio.owner:
            yield names.free("datasets", info.name, ".jsonl"), _rows(Path(info.path))
    for prompt_set in prompt_sets.list_sets(studio):
        if prompt_set.id != prompt_sets.GENERAL:
            path = studio.settings.prompts / prompt_set.id / "prompts.jsonl"
            yield names.free("prompts", prompt_set.name, ".jsonl"), _file(studio, path)


def _judged(studio: Studio, names: _Names) -> Iterator[Member]:
    visitor = studio.visitor
    for info in evaluations.list_evaluations(studio):
        if info.state == "completed":
            name = names.free("evaluations", f"{ascii_name(info.name)}-{info.id[-6:]}", ".json")
            yield name, _json(studio, visitor, partial(evaluations.as_dict, studio, info.id))
    for key in comparisons.mine(studio):
        load = partial(_compared, studio, key)
        yield names.free("comparisons", key[:8], ".json"), _json(studio, visitor, load)
    for path in votes.files(studio):
        yield f"votes/{path.name}", _file(studio, path)


def _compared(studio: Studio, key: str) -> dict[str, Any]:
    return comparisons.as_dict(comparisons.load(studio, key))


def _base(studio: Studio, run: RunDir, model: str) -> tuple[str, str]:
    """The folder of a base model on this machine, and its name elsewhere."""
    return str((read_json(run.path / "model.json") or {}).get("path") or ""), models.known_as(studio, model)


def _inside(studio: Studio, folder: Path, target: str, base: tuple[str, str]) -> Iterator[Member]:
    # Without the manifest, as in exports: its checksums are those of the files before paths are removed.
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return ((f"{target}/{path.name}", _file(studio, path, base)) for path in files)


def _file(studio: Studio, path: Path, base: tuple[str, str] = ("", "")) -> Iterator[bytes]:
    """The bytes of a file. In files that contain paths, the base's folder is replaced by its name."""
    if path.name.endswith(_TELLING):
        folder, name = base
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if path.name == "adapter_config.json" and (config := read_json(path)) is not None:
            text = json.dumps(config | {"base_model_name_or_path": name}, ensure_ascii=False, indent=1) + "\n"
        text = text.replace(folder, name) if folder else text
        yield access.without_places(studio, text).encode("utf-8", "surrogateescape")
        return
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def _rows(folder: Path) -> Iterator[bytes]:
    for records in iter_records(folder):
        rows = ({"text": record.text} if record.text else _conversation(record) for record in records)
        yield b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _conversation(record: Record) -> dict[str, Any]:
    return {"messages": record.messages} | ({"tools": record.tools} if record.tools else {})


def _json(studio: Studio, visitor: Visitor, load: Callable[[], dict[str, Any]]) -> Iterator[bytes]:
    with acting(visitor):
        text = json.dumps(load(), ensure_ascii=False, indent=1) + "\n"
    yield access.without_places(studio, text).encode()
