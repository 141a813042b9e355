"""Folders that the datasets library saved (save_to_disk): one dataset, or splits of one."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.dataset.read.arrow.arrow_file import Arrow, is_arrow
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.names import and_list, is_held_out, is_train
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes, display_name
from studio.dataset.read.strict import named
from studio.errors import BadInput

_STATE, _SPLITS = "state.json", "dataset_dict.json"
# The largest such description that is read: a real one has some hundred bytes for each file.
_MOST = 16 * MIB


@dataclass(frozen=True, slots=True)
class _Split:
    """A split's files. name: "" for a dataset without splits."""

    name: str
    files: tuple[Path, ...]
    held_out: bool = False


def is_saved(folder: Path) -> bool:
    """Whether the datasets library saved this folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


class Saved:
    """A saved dataset: its train rows first, then those held out, numbered by themselves.

    Raises BadInput for a folder that is incomplete, or whose splits are neither trained on nor held out. columns: their
    names in the train rows. media: those with pictures or sound. note: the splits, for people. files: all of them.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.name = display_name(folder)
        self._limits = limits
        self._splits = _splits(folder, self.name)
        self.files = tuple(path for split in self._splits for path in split.files)
        self.note = "saved dataset" + _described(self._splits)
        self._sizes = {path: self._size(path) for path in self.files}
        self.size = sum(self._sizes.values())
        self._read = 0
        if self.size > limits.max_file_mb * MIB:
            raise BadInput(f"{self.name} has more than {limits.max_file_mb:,} MiB ({limit('max_file_mb')}).")
        with closing(self._open(self._splits[0].files[0])) as first:
            self.columns, self.media = first.columns, first.media

    def done(self) -> tuple[int, int]:
        """The bytes read so far, and all."""
        return self._read, self.size

    def rows(self) -> Iterator[Row | Finding]:
        """Yield the rows."""
        numbers = {False: 0, True: 0}
        for split in self._splits:
            for path in split.files:
                before = self._read
                with closing(self._open(path)) as file:
                    for row in file.rows():
                        self._read = before + int(file.share() * self._sizes[path])
                        numbers[split.held_out] += 1
                        yield _placed(row, numbers[split.held_out], split.held_out)
                self._read = before + self._sizes[path]

    def _open(self, path: Path) -> Arrow:
        source = Bytes(path, self._limits)
        try:
            if source.packed or not is_arrow(source.head()):
                raise BadInput(f"{self.name}: {display_name(path)} is not an Arrow file. Save the dataset again.")
            return Arrow(source, self._limits, None)
        finally:
            source.close()

    def _size(self, path: Path) -> int:
        if path.is_symlink() or not path.is_file():
            raise BadInput(f"{self.name} is incomplete: {display_name(path)} is missing. Copy or save it again.")
        return path.stat().st_size


def _placed(row: Row | Finding, number: int, held_out: bool) -> Row | Finding:
    if isinstance(row, Row):
        return replace(row, number=number, held_out=held_out)
    return replace(row, row=number, held_out=held_out)


def _splits(folder: Path, name: str) -> list[_Split]:
    if (folder / _STATE).is_file():
        return [_Split("", _files(folder, name))]
    value = _read_json(folder / _SPLITS, name)
    names = value.get("splits")
    if not isinstance(names, list) or not names or not all(map(_is_plain, names)):
        raise BadInput(f"{name}: {_SPLITS} names no splits. Save the dataset again.")
    if len(names) == 1:
        return [_Split(names[0], _files(folder / names[0], name))]
    train = [split for split in names if is_train(split)]
    held_out = [split for split in names if is_held_out(split)]
    if other := [split for split in names if split not in (*train, *held_out)]:
        raise BadInput(
            f"{name} has the splits {and_list(names)}, and {named(other[0])!r} is neither trained on nor held out. "
            f"Name the folder of the split you mean, such as {name}/{names[0]}."
        )
    if not train:
        raise BadInput(
            f"{name} has the splits {and_list(names)}, none of them to train on. Name the folder of the split you "
            f"mean, such as {name}/{names[0]}."
        )
    return [_Split(split, _files(folder / split, name), is_held_out(split)) for split in (*train, *held_out)]


def _files(folder: Path, name: str) -> tuple[Path, ...]:
    state = _read_json(folder / _STATE, name)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise BadInput(f"{name} is a selection of rows. Call flatten_indices() before save_to_disk(), and try again.")
    entries = state.get("_data_files")
    listed = entries if isinstance(entries, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed]
    if not names or not all(map(_is_plain, names)):
        raise BadInput(f"{name}: {_STATE} names no data files. Save the dataset again.")
    return tuple(folder / str(item) for item in names)


def _is_plain(name: Any) -> bool:
    """Whether a name from the file stays in its folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\x00"} & set(name)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST else None
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadInput(f"{name}: {path.name} is missing or broken. Copy or save the dataset again.")
    return value


def _described(splits: list[_Split]) -> str:
    train = [split.name for split in splits if not split.held_out and split.name]
    held_out = [split.name for split in splits if split.held_out]
    return (f", trained on: {and_list(train)}" if train else "") + (
        f"; held out: {and_list(held_out)}" if held_out else ""
    )
