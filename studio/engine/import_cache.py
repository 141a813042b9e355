"""What libraries look up anew whenever they are imported, kept from one process to the next as Python keeps bytecode.

transformers reads 1,700 of its files, twice, for what they export; TRL reads what every installed distribution brings:
a fifth of a worker's imports. What they found is kept beside this module's bytecode for as long as the files are the
same. Where it cannot be kept, they look as they do elsewhere.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType
from typing import Any

from studio.on_import import Watch
from studio.rundir import read_json, write_text

_SCANNER = "transformers.utils.import_utils"
_SCAN = "create_import_structure_from_path"
_DISTRIBUTIONS = (".dist-info", ".egg-info")


@contextmanager
def remembering() -> Iterator[None]:
    """What is imported within is told what it found the last time; afterwards all functions are the libraries' own."""
    taken: list[Callable[[], None]] = []
    watch = Watch(_SCANNER, lambda module: taken.append(_scan_once(module)))
    look = metadata.packages_distributions
    sys.meta_path.insert(0, watch)
    metadata.packages_distributions = lambda: _packages(look)
    try:
        yield
    finally:
        metadata.packages_distributions = look
        sys.meta_path.remove(watch)
        for give_back in taken:
            give_back()


def _scan_once(module: ModuleType) -> Callable[[], None]:
    """Let transformers look through its models once, or not at all; returns what gives it its own function back."""
    scan = getattr(module, _SCAN, None)
    if scan is None:
        return lambda: None
    models = Path(module.__file__ or "").parent.parent / "models"
    found: list[Any] = []

    def scan_once(path: str | Path) -> Any:
        if Path(path) not in (models, models / "__init__.py"):
            return scan(path)
        if not found:
            found.append(_exports(models, scan))
        # Of its own for each: they may be changed.
        return scan(path) if found[0] is None else _sets(found[0])

    setattr(module, _SCAN, scan_once)
    return lambda: setattr(module, _SCAN, scan)


def _exports(models: Path, scan: Callable[[Path], Any]) -> list[Any] | None:
    """What transformers finds in its models, as lists; None from a version that says it in another way."""
    mark = _mark(models, list(_files(models)))
    plain: list[Any] | None = _kept("exports", mark)
    if plain is None:
        found = scan(models)
        with suppress(TypeError, ValueError, AttributeError):
            lists = _lists(found)
            if _sets(lists) == found:
                plain = lists
                _keep("exports", mark, plain)
    return plain


def _packages(look: Callable[[], Any]) -> Any:
    if [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")] != [PathFinder]:
        return look()  # who else knows of distributions, and when they change, is not known here
    mark = _mark("", [one for folder in sys.path for one in _distributions(folder)])
    kept = _kept("packages", mark)
    if kept is None:
        kept = look()
        _keep("packages", mark, kept)
    return kept


def _files(folder: str | Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            else:
                told = entry.stat()
                yield entry.path, told.st_mtime_ns, told.st_size


def _distributions(folder: str) -> Iterator[tuple[str, int]]:
    """A folder of the path without any, as a run's is, does not count."""
    with suppress(OSError):
        if os.path.isfile(folder):  # noqa: PTH113  (a zip archive; most are folders, and Path takes its time)
            yield folder, os.stat(folder).st_mtime_ns  # noqa: PTH116
            return
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name.endswith(_DISTRIBUTIONS):
                    yield entry.path, entry.stat().st_mtime_ns


def _mark(of: object, seen: list[Any]) -> str:
    return blake2b(repr((str(of), sorted(seen))).encode(), digest_size=16).hexdigest()


def _kept(name: str, mark: str) -> Any:
    with suppress(OSError):
        kept = read_json(_path(name)) or {}
        return kept.get("found") if kept.get("mark") == mark else None
    return None


def _keep(name: str, mark: str, found: Any) -> None:
    if not sys.dont_write_bytecode:
        with suppress(OSError):
            write_text(_path(name), json.dumps({"mark": mark, "found": found}))


def _path(name: str) -> Path:
    return Path(cache_from_source(__file__)).with_suffix(f".{name}.json")


def _lists(found: dict[Any, Any]) -> list[Any]:
    """transformers' answer as JSON can hold it: a folder's folders by name, and what its modules export by needs."""
    return [
        {name: _lists(inside) for name, inside in found.items() if isinstance(name, str)},
        [
            [sorted(needs), {module: sorted(names) for module, names in exports.items()}]
            for needs, exports in found.items()
            if not isinstance(needs, str)
        ],
    ]


def _sets(plain: list[Any]) -> dict[Any, Any]:
    folders, exports = plain
    return {name: _sets(inside) for name, inside in folders.items()} | {
        frozenset(needs): {module: set(names) for module, names in modules.items()} for needs, modules in exports
    }
