"""Atomic folders: written to a temporary folder, flushed, given a manifest and renamed; verified before use."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from studio.errors import StudioError
from studio.rundir.files import MANIFEST, read_json, write_json
from studio.rundir.paths import RunDir

GONE = ".gone"  # suffix of a folder that is being deleted; leftovers of a kill are deleted at the next start


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Write a folder atomically: yields a temporary folder, which on success gets a manifest and is renamed.

    An existing folder at `final` is only replaced by a finished one.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        commit_folder(aside, final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def commit_folder(aside: Path, final: Path) -> None:
    """Write the manifest of `aside`, flush all of it to disk and rename it to `final`."""
    files = {}
    for path in sorted(item for item in aside.rglob("*") if item.is_file() and item.name != MANIFEST):
        files[path.relative_to(aside).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
        _fsync(path)
    write_json(aside / MANIFEST, {"files": files})
    for folder in [item for item in aside.rglob("*") if item.is_dir()] + [aside]:
        _fsync(folder)
    old = None
    if final.exists():
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    aside.rename(final)
    _fsync(final.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def vanish(path: Path) -> None:
    """Delete a folder. It is renamed first, so that a half-deleted folder never appears under its name."""
    gone = path.with_name(f".{path.name}{GONE}")
    shutil.rmtree(gone, ignore_errors=True)  # leftovers of an earlier, killed deletion
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Finish or undo the work of a killed writer of atomic folders in `parent`. Only call it when nothing is writing.

    A kill between the two renames of a replacement leaves nothing under the final name: then the finished new folder is
    renamed, or else the old one is restored. Half-written folders and files are deleted.
    """
    leftovers = [path for path in parent.glob(".*") if path.suffix in (".tmp", ".old", ".new")]
    for path in sorted(leftovers, key=lambda path: path.suffix == ".old"):
        final = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path.is_dir() and path.name.count(".") >= 3 and not final.exists() and verify_folder(path) is None:
            path.rename(final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith((".about.", ".resume.")):  # these may be written by the studio at any time
            path.unlink(missing_ok=True)


def verify_folder(folder: Path, tick: Callable[[], None] | None = None) -> str | None:
    """Check every file against the manifest; returns None, or a sentence that names the first mismatch."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return f"{folder.name} has no readable {MANIFEST}."
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{folder.name}: the file {name} is missing."
        if path.stat().st_size != entry["size"] or sha256(path) != entry["sha256"]:
            return f"{folder.name}: the file {name} is damaged."
        if tick is not None:
            tick()
    return None


def newest_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint whose files all match its manifest."""
    checkpoints = []
    for path in run.checkpoints.glob("step-*"):
        with contextlib.suppress(ValueError):
            checkpoints.append((int(path.name.removeprefix("step-")), path))
    for _, path in sorted(checkpoints, reverse=True):
        if verify_folder(path) is None:
            return path
    return None


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some file systems cannot flush a folder; the rename is then only as safe as they make it.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def free_space_or_raise(folder: Path, need: int, what: str) -> None:
    """Raise StudioError when the disk of `folder` has less than `need` bytes for `what`."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise StudioError(
            f"{what} needs {need / 2**30:.1f} GiB and the disk of {folder} has {free / 2**30:.1f} GiB free. "
            "Free some space or move STUDIO_HOME to a larger disk."
        )
