"""What is one's own, as a whole: a zip to take away, and for the admin of a shared studio, who uses what.

A hosted studio's disk may vanish when it restarts; what someone learned there should not have to.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.dataset.store import iter_records
from studio.errors import NotFound
from studio.rundir import About
from studio.services import adapters, datasets, quotas, runs, trash
from studio.services.export_files import Drain
from studio.services.owner import Visitor, acting
from studio.services.quotas import Used
from studio.services.states import FINAL
from studio.store import runs as rows

if TYPE_CHECKING:
    from studio.services.studio import Studio

_CHUNK = 2**20
_DISK = Path("/data")


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
    """A zip of all that is one's own, made while it is read: adapters with their recipes, and datasets as jsonl."""
    files = list(_files(studio))
    own = [info for info in datasets.list_datasets(studio) if _is_own(studio, info)]
    return _zipped(files, [(f"datasets/{_plain(info.name)}.jsonl", Path(info.path)) for info in own])


def _files(studio: "Studio") -> Iterator[tuple[str, Path]]:
    for info in runs.list_runs(studio):
        run = studio.run_dir(info.id)
        folder = f"runs/{_plain(info.name)}-{info.id[-6:]}"
        yield f"{folder}/recipe.yaml", run.recipe
        if run.trained is not None:
            yield from _inside(run.trained, folder)
    for made in adapters.list_adapters(studio):
        if made.has_adapter:
            trained = adapters.folder_of(studio, made.id).trained
            if trained is not None:
                yield from _inside(trained, f"adapters/{_plain(made.name)}")


def _inside(folder: Path, called: str) -> Iterator[tuple[str, Path]]:
    yield from ((f"{called}/{folder.name}/{path.name}", path) for path in sorted(folder.iterdir()) if path.is_file())


def _is_own(studio: "Studio", info: datasets.DatasetInfo) -> bool:
    return datasets.owner_of(studio, info.id) == studio.owner


def _zipped(files: list[tuple[str, Path]], tables: list[tuple[str, Path]]) -> Iterator[bytes]:
    drain = Drain()
    with zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED) as packed:
        for name, path in files:
            with packed.open(name, "w", force_zip64=True) as target, path.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
                    yield drain.take()
        for name, folder in tables:
            with packed.open(name, "w", force_zip64=True) as target:
                for records in iter_records(folder):
                    for record in records:
                        told = {"text": record.text} if record.text else {"messages": record.messages}
                        target.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")
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
