"""Whole folders: written aside, flushed, given a manifest and renamed; verified before anyone relies on them."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from studio.errors import StudioError
from studio.rundir.files import MANIFEST, read_json, write_json
from studio.rundir.paths import RunDir

GONE = ".gone"  # ends the name of a folder that is being deleted; what a kill leaves of it goes at the next start


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Write a folder whole or not at all: yields a folder aside; on success it gets a manifest and is renamed.

    A folder already at `final` is replaced only by a finished one.
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
    """Give `aside` its manifest, flush all of it to disk and rename it to `final`."""
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
    """Delete a folder. It goes out of sight first: half of it must not be offered under its name."""
    gone = path.with_name(f".{path.name}{GONE}")
    shutil.rmtree(gone, ignore_errors=True)  # what a kill left of an earlier one
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Finish or undo what a writer of whole folders that was killed left in `parent`. Only where nobody writes now.

    A kill between the two renames of a replacement leaves nothing under the final name: then the finished new folder
    takes its place, or else the old one again. Half-written folders and files are deleted.
    """
    leftovers = [path for path in parent.glob(".*") if path.suffix in (".tmp", ".old", ".new")]
    for path in sorted(leftovers, key=lambda path: path.suffix == ".old"):
        final = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path.is_dir() and path.name.count(".") >= 3 and not final.exists() and verify_folder(path) is None:
            path.rename(final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith((".about.", ".resume.")):  # those are the studio's, at any time
            path.unlink(missing_ok=True)


def verify_folder(folder: Path, tick: Callable[[], None] | None = None) -> str | None:
    """None when every file matches the manifest, else a sentence saying what does not."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return f"{folder.name} has no readable {MANIFEST}."
    for name, told in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{folder.name}: the file {name} is missing."
        if path.stat().st_size != told["size"] or sha256(path) != told["sha256"]:
            return f"{folder.name}: the file {name} is damaged."
        if tick is not None:
            tick()
    return None


def newest_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint whose files all match its manifest."""
    found = []
    for path in run.checkpoints.glob("step-*"):
        with contextlib.suppress(ValueError):
            found.append((int(path.name.removeprefix("step-")), path))
    for _, path in sorted(found, reverse=True):
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
        # Some file systems refuse to flush a folder; the rename is then as safe as they make it.
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
