"""What is one's own, as a whole: a zip to take away.

A hosted studio's disk may vanish when it restarts; what someone learned there should not have to.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

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
_TELLING = ("config.json", ".md", ".yaml", "Modelfile")  # never vocabularies: a path may be a token


def vanishes(studio: Studio) -> bool:
    """Whether the disk of this studio is lost when it restarts: a Space without a disk of its own."""
    return bool(os.environ.get("SPACE_ID")) and not studio.settings.home.is_relative_to(_DISK)


def archive(studio: Studio) -> Iterator[bytes]:
    """A zip of all that is one's own, made while it is read: what runs and adapters learned, with their recipes,
    exports, datasets as jsonl, evaluations, comparisons, votes and prompt sets. It says nothing of this machine."""
    names = _Names()
    learned, gathered = _learned(studio, names), _gathered(studio, names)
    return zipped([*learned, *_exported(studio, names), *gathered, *_judged(studio, names)])


class _Names:
    """Names of things in a zip, each once: unpacked, a second of the same name would lie over the first."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def free(self, place: str, name: str, ending: str = "") -> str:
        """`place/name` with its ending, and a number where that is taken; some disks do not tell capitals apart."""
        clean = ascii_name(name)
        tried = (f"{place}/{clean}{f'-{number}' if number > 1 else ''}{ending}" for number in count(1))
        found = next(path for path in tried if path.lower() not in self._taken)
        self._taken.add(found.lower())
        return found


def _learned(studio: Studio, names: _Names) -> Iterator[Member]:
    for info in runs.list_runs(studio):
        run = studio.run_dir(info.id)
        folder = names.free("runs", f"{ascii_name(info.name)}-{info.id[-6:]}")
        yield f"{folder}/recipe.yaml", _file(studio, run.recipe)
        if run.trained is not None:
            yield from _inside(studio, run.trained, f"{folder}/{run.trained.name}", _base(studio, run, info.model))
    for made in adapters.list_adapters(studio):
        run = adapters.folder_of(studio, made.id)
        if run.trained is not None:
            called = f"{names.free('adapters', made.name)}/{run.trained.name}"
            yield from _inside(studio, run.trained, called, _base(studio, run, made.model))


def _exported(studio: Studio, names: _Names) -> Iterator[Member]:
    for info in exports.list_exports(studio):
        if info.path is not None:
            made, folder = Path(info.path), names.free("exports", f"{ascii_name(info.source)}-{info.id[-6:]}")
            if made.is_file():
                yield f"{folder}/{made.name}", _file(studio, made)
            else:
                model = (exports.find(studio, info.id)[1]).get("model") or {}
                base = str(model.get("path") or ""), str(model.get("id") or "")
                yield from _inside(studio, made, f"{folder}/{made.name}", base)


def _gathered(studio: Studio, names: _Names) -> Iterator[Member]:
    for info in datasets.list_datasets(studio):
        if datasets.owner_of(studio, info.id) == studio.owner:
            yield names.free("datasets", info.name, ".jsonl"), _rows(Path(info.path))
    for one in prompt_sets.list_sets(studio):
        if one.id != prompt_sets.GENERAL:
            path = studio.settings.prompts / one.id / "prompts.jsonl"
            yield names.free("prompts", one.name, ".jsonl"), _file(studio, path)


def _judged(studio: Studio, names: _Names) -> Iterator[Member]:
    visitor = studio.visitor
    for info in evaluations.list_evaluations(studio):
        if info.state == "completed":
            name = names.free("evaluations", f"{ascii_name(info.name)}-{info.id[-6:]}", ".json")
            yield name, _json(studio, visitor, partial(evaluations.as_dict, studio, info.id))
    for key in comparisons.mine(studio):
        made = partial(_compared, studio, key)
        yield names.free("comparisons", key[:8], ".json"), _json(studio, visitor, made)
    for path in votes.files(studio):
        yield f"votes/{path.name}", _file(studio, path)


def _compared(studio: Studio, key: str) -> dict[str, Any]:
    return comparisons.as_dict(comparisons.load(studio, key))


def _base(studio: Studio, run: RunDir, model: str) -> tuple[str, str]:
    """The folder of a base on this machine, and what it is called elsewhere."""
    return str((read_json(run.path / "model.json") or {}).get("path") or ""), models.known_as(studio, model)


def _inside(studio: Studio, folder: Path, called: str, base: tuple[str, str]) -> Iterator[Member]:
    # The manifest is left out, as of exports: its sums are those of the files as they lie here.
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return ((f"{called}/{path.name}", _file(studio, path, base)) for path in found)


def _file(studio: Studio, path: Path, base: tuple[str, str] = ("", "")) -> Iterator[bytes]:
    """The bytes of a file; of one that tells where it was made, with the base's name for its folder."""
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
        told = ({"text": record.text} if record.text else {"messages": record.messages} for record in records)
        yield b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in told)


def _json(studio: Studio, visitor: Visitor, made: Callable[[], dict[str, Any]]) -> Iterator[bytes]:
    with acting(visitor):
        text = json.dumps(made(), ensure_ascii=False, indent=1) + "\n"
    yield access.without_places(studio, text).encode()
