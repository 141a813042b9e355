"""What is one's own, as a whole: a zip to take away, and for the admin of a shared studio, who uses what.

A hosted studio's disk may vanish when it restarts; what someone learned there should not have to.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.dataset.store import iter_records
from studio.errors import NotFound
from studio.rundir import MANIFEST, About, RunDir, read_json
from studio.services import (
    adapters,
    comparisons,
    datasets,
    evaluations,
    exports,
    locality,
    models,
    prompt_sets,
    quotas,
    runs,
    trash,
    votes,
)
from studio.services.export_files import Drain
from studio.services.owner import Visitor, acting
from studio.services.quotas import Used
from studio.services.states import FINAL
from studio.store import runs as rows

if TYPE_CHECKING:
    from studio.services.studio import Studio

_CHUNK = 2**20
_DISK = Path("/data")
_TELLING = ("config.json", ".md", ".yaml", "Modelfile")  # never vocabularies: a path may be a token
_Member = tuple[str, Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Use:
    """What one visitor uses. key: how the admin names them; nothing that they own is told."""

    key: str
    name: str
    kind: str
    seen: float
    used: Used


def vanishes(studio: "Studio") -> bool:
    """Whether the disk of this studio is lost when it restarts: a Space without a disk of its own."""
    return bool(os.environ.get("SPACE_ID")) and not studio.settings.home.is_relative_to(_DISK)


def archive(studio: "Studio") -> Iterator[bytes]:
    """A zip of all that is one's own, made while it is read: what runs and adapters learned, with their recipes,
    exports, datasets as jsonl, evaluations, comparisons, votes and prompt sets. It says nothing of this machine."""
    return _zipped([*_learned(studio), *_exported(studio), *_gathered(studio), *_judged(studio)])


def _learned(studio: "Studio") -> Iterator[_Member]:
    for info in runs.list_runs(studio):
        run = studio.run_dir(info.id)
        folder = f"runs/{_plain(info.name)}-{info.id[-6:]}"
        yield f"{folder}/recipe.yaml", _file(studio, run.recipe)
        if run.trained is not None:
            yield from _inside(studio, run.trained, f"{folder}/{run.trained.name}", _base(studio, run, info.model))
    for made in adapters.list_adapters(studio):
        run = adapters.folder_of(studio, made.id)
        if run.trained is not None:
            called = f"adapters/{_plain(made.name)}/{run.trained.name}"
            yield from _inside(studio, run.trained, called, _base(studio, run, made.model))


def _exported(studio: "Studio") -> Iterator[_Member]:
    for info in exports.list_exports(studio):
        if info.path is not None:
            made, folder = Path(info.path), f"exports/{_plain(info.source)}-{info.id[-6:]}"
            if made.is_file():
                yield f"{folder}/{made.name}", _file(studio, made)
            else:
                model = (exports.find(studio, info.id)[1]).get("model") or {}
                base = str(model.get("path") or ""), str(model.get("id") or "")
                yield from _inside(studio, made, f"{folder}/{made.name}", base)


def _gathered(studio: "Studio") -> Iterator[_Member]:
    for info in datasets.list_datasets(studio):
        if datasets.owner_of(studio, info.id) == studio.owner:
            yield f"datasets/{_plain(info.name)}.jsonl", _rows(Path(info.path))
    for one in prompt_sets.list_sets(studio):
        if one.id != prompt_sets.GENERAL:
            yield f"prompts/{_plain(one.name)}.jsonl", _file(studio, studio.settings.prompts / one.id / "prompts.jsonl")


def _judged(studio: "Studio") -> Iterator[_Member]:
    visitor = studio.visitor
    for info in evaluations.list_evaluations(studio):
        if info.state == "completed":
            name = f"evaluations/{_plain(info.name)}-{info.id[-6:]}.json"
            yield name, _json(studio, visitor, partial(evaluations.as_dict, studio, info.id))
    for key in comparisons.mine(studio):
        made = partial(_compared, studio, key)
        yield f"comparisons/{key[:8]}.json", _json(studio, visitor, made)
    for path in votes.files(studio):
        yield f"votes/{path.name}", _file(studio, path)


def _compared(studio: "Studio", key: str) -> dict[str, Any]:
    return comparisons.as_dict(comparisons.load(studio, key))


def _base(studio: "Studio", run: RunDir, model: str) -> tuple[str, str]:
    """The folder of a base on this machine, and what it is called elsewhere."""
    return str((read_json(run.path / "model.json") or {}).get("path") or ""), models.known_as(studio, model)


def _inside(studio: "Studio", folder: Path, called: str, base: tuple[str, str]) -> Iterator[_Member]:
    # The manifest is left out, as of exports: its sums are those of the files as they lie here.
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return ((f"{called}/{path.name}", _file(studio, path, base)) for path in found)


def _file(studio: "Studio", path: Path, base: tuple[str, str] = ("", "")) -> Iterator[bytes]:
    """The bytes of a file; of one that tells where it was made, with the base's name for its folder."""
    if path.name.endswith(_TELLING):
        folder, name = base
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if path.name == "adapter_config.json" and (config := read_json(path)) is not None:
            text = json.dumps(config | {"base_model_name_or_path": name}, ensure_ascii=False, indent=1) + "\n"
        text = text.replace(folder, name) if folder else text
        yield locality.without_places(studio, text).encode("utf-8", "surrogateescape")
        return
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def _rows(folder: Path) -> Iterator[bytes]:
    for records in iter_records(folder):
        told = ({"text": record.text} if record.text else {"messages": record.messages} for record in records)
        yield b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in told)


def _json(studio: "Studio", visitor: Visitor, made: Callable[[], dict[str, Any]]) -> Iterator[bytes]:
    with acting(visitor):
        text = json.dumps(made(), ensure_ascii=False, indent=1) + "\n"
    yield locality.without_places(studio, text).encode()


def _zipped(members: list[_Member]) -> Iterator[bytes]:
    drain = Drain()
    with zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED) as packed:
        for name, content in members:
            with packed.open(name, "w", force_zip64=True) as target:
                for chunk in content:
                    target.write(chunk)
                    yield drain.take()
    yield drain.take()


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:60] or "it"


# For the admin of a studio that others reach


def everyone(studio: "Studio") -> list[Use]:
    """Who uses what, whoever was here last first; for an admin alone."""
    _only_admins(studio)
    return [
        Use(_key(told["owner"]), str(told.get("name") or ""), str(told.get("kind")), float(told.get("seen", 0)),
            quotas.used(studio, str(told["owner"])))
        for told in quotas.noted(studio)
    ]  # fmt: skip


def stop_all(studio: "Studio", key: str) -> int:
    """Stop or take out of the queue all that a visitor has there; returns how many runs."""
    whose = _named(studio, key)
    with acting(whose):
        mine = [row.id for row in rows.unfinished(studio.database) if row.owner == whose.owner]
        for run_id in mine:
            runs.cancel(studio, run_id)
    return len(mine)


def clear(studio: "Studio", key: str) -> int:
    """Put all runs of a visitor that are over into the trash and empty it; returns how many went."""
    whose = _named(studio, key)
    with acting(whose):
        for info in runs.list_runs(studio):
            if info.state in FINAL and About.read(studio.run_dir(info.id)).owner == whose.owner:
                trash.throw(studio, info.id)
        return len(trash.empty(studio).deleted)


def _named(studio: "Studio", key: str) -> Visitor:
    _only_admins(studio)
    found = next((told for told in quotas.noted(studio) if _key(str(told["owner"])) == key), None)
    if found is None:
        raise NotFound("There is no such visitor any more.")
    return Visitor(str(found["owner"]), str(found.get("name") or ""), found.get("kind", "account"))


def _only_admins(studio: "Studio") -> None:
    if not studio.visitor.admin:
        raise NotFound("There is nothing here.")


def _key(owner: str) -> str:
    """An owner without their secret: the number of an anonymous one is what their cookie says."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]
