"""Downloads and copies of an export's files: a single file, or a folder as a zip that is made while it is read."""

import io
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from studio.errors import BadInput, Conflict
from studio.rundir import MANIFEST, free_space_or_raise
from studio.services.core.studio import Studio
from studio.services.exports import exports

_CHUNK = 2**20
Member = tuple[str | zipfile.ZipInfo, Iterator[bytes]]


def file_of(studio: Studio, export_id: str, name: str = "") -> Path | None:
    """The file to download of a finished export, or a named file of its folder; None if the whole folder is downloaded.

    Raises Conflict when there is nothing to download yet.
    """
    info = exports.get(studio, export_id)
    if info.path is None:
        raise Conflict(f"This export is {info.state}: there is nothing to download.")
    path = Path(info.path)
    if path.is_file():
        return path
    wanted = name or (info.file_name if info.kind == "gguf" else "")
    if not wanted:
        return None
    # Looked up in the folder's own listing, never by a path from outside.
    known = {item.name: item for item in path.iterdir() if item.is_file()}
    if wanted not in known:
        raise BadInput(f"This export has no file {wanted[:100]!r}.")
    return known[wanted]


def archive_of(studio: Studio, export_id: str) -> tuple[str, Iterator[bytes]]:
    """The name and the bytes of a zip of an export's folder, made while they are read: nothing is written to disk."""
    info = exports.get(studio, export_id)
    if info.path is None or not Path(info.path).is_dir():
        raise Conflict(f"This export is {info.state}: there is no folder to download.")
    return str(info.file_name), zipped(_members(Path(info.path), Path(str(info.file_name)).stem))


def ascii_name(name: str) -> str:
    """A name that is valid for files and folders on any system."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:60] or "run"


def zipped(members: Iterable[Member], method: int = zipfile.ZIP_STORED) -> Iterator[bytes]:
    """A zip of named contents, made while it is read. Not compressed by default, since weights do not compress."""
    drain = _Drain()
    with zipfile.ZipFile(drain, "w", method, compresslevel=1) as packed:
        for name, content in members:
            with packed.open(name, "w", force_zip64=True) as target:
                for chunk in content:
                    target.write(chunk)
                    yield drain.take()
    yield drain.take()


class _Drain(io.RawIOBase):
    """A file object that collects what a zip writes, to be taken piece by piece."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _members(folder: Path, inside: str) -> Iterator[Member]:
    for path in sorted(item for item in folder.iterdir() if item.is_file() and item.name != MANIFEST):
        yield zipfile.ZipInfo.from_file(path, f"{inside}/{path.name}"), _content(path)


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def copy_to(studio: Studio, export_id: str, out: Path) -> Path:
    """Copy a finished export's artefact into a folder of the user's."""
    info = exports.get(studio, export_id)
    if info.path is None:
        raise Conflict(f"This export is {info.state}: there is nothing to copy. {info.message}")
    source = Path(info.path)
    target = out / source.name
    if target.exists():
        raise BadInput(f"{target} exists already. Move it away or choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    free_space_or_raise(out, (info.size or 0) + _CHUNK, f"Copying the {info.kind}")
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target
