"""Foreign files: from a folder or a zip, take only those that an adapter or a model needs.

Everything is decided by lists and bounds before a byte is written: allowed names, number of entries, sizes, and how
much one byte may unpack to. The files taken are written to an empty folder under their plain names. Their contents are
checked afterwards (weights.py, configs.py), on these copies.
"""

import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from studio.errors import BadInput
from studio.rundir import free_space_or_raise

MIB = 2**20
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
)
SHARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
INDEX = "model.safetensors.index.json"
_MODEL = ("config.json", "generation_config.json", INDEX)
_BOUNDS = {  # bytes
    "adapter_config.json": MIB,
    "tokenizer.json": 64 * MIB,
    "chat_template.jinja": MIB,
    "README.md": MIB,
    INDEX: 32 * MIB,
}
_OTHER_BOUND, _LARGEST_WEIGHTS, _LARGEST = 16 * MIB, 64 * 2**30, 512 * 2**30
_MOST_ENTRIES, _LONGEST_NAME = 2000, 200
_SMALL = MIB  # this much may be unpacked at any compression ratio
_CHUNK = MIB
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".h5")
# Files that trainers leave next to an adapter. They are pickles: not read and not copied.
_LEFTOVERS = re.compile(r"(training_args\.bin|(optimizer|scheduler|scaler|rng_state(_\d+)?)\.(pt|pth|bin))")
_ARCHIVES = (
    ".zip",
    ".tar",
    ".gz",
    ".tgz",
    ".bz2",
    ".xz",
    ".zst",
    ".7z",
    ".rar",
    ".whl",
    ".jar",
    ".egg",
    ".apk",
    ".iso",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """The files taken into `folder`. kind: adapter or model; left: names of files that were not taken."""

    folder: Path
    kind: str
    left: tuple[str, ...]


def all_wanted(names: Iterable[str]) -> bool:
    """Whether files of all these names can be taken."""
    return all(_is_wanted(name) for name in names)


def _is_wanted(name: str) -> bool:
    return name in (*ADAPTER, *TOKENIZER, *_MODEL, "README.md") or SHARD.fullmatch(name) is not None


def kind_of(names: Iterable[str], where: str) -> str:
    """Whether files of these names are an adapter or a model; raises BadInput with what is missing or refused."""
    known = set(names)
    pickles = sorted(name for name in known if name.lower().endswith(PICKLES) and not _LEFTOVERS.fullmatch(name))
    if pickles:
        raise BadInput(
            f"{_short(pickles[0])} in {where} is a pickle: opening one can run foreign code. Provide the weights as "
            "safetensors, and leave that file out."
        )
    if ADAPTER[0] in known or ADAPTER[1] in known:
        for name in ADAPTER:
            if name not in known:
                raise BadInput(
                    f"{where} has no {name}: an adapter is {' and '.join(ADAPTER)}. Save it with PEFT again."
                )
        return "adapter"
    if "config.json" in known and any(SHARD.fullmatch(name) for name in known):
        return "model"
    raise BadInput(
        f"{where} contains neither an adapter ({', '.join(ADAPTER)}) nor a model (config.json, model.safetensors). "
        "Give the folder that contains those files."
    )


def bound_of(name: str) -> int:
    """Largest size in bytes that a file of this name may have."""
    if name == ADAPTER[1] or SHARD.fullmatch(name):
        return _LARGEST_WEIGHTS
    return _BOUNDS.get(name, _OTHER_BOUND)


def check_sizes(sizes: dict[str, int], where: str) -> int:
    """Total size in bytes; raises BadInput if one file or all of them together are too large."""
    for name, size in sizes.items():
        if size > bound_of(name):
            raise BadInput(f"{name} in {where} has {size:,} bytes; a file of that name has at most {bound_of(name):,}.")
    total = sum(sizes.values())
    if total > _LARGEST:
        raise BadInput(f"{where} has {total / 2**30:,.0f} GiB; at most {_LARGEST // 2**30} are allowed.")
    return total


def take_folder(source: Path, into: Path) -> Taken:
    """Copy the needed files of a folder of this machine into `into`."""
    where = _short(source.name or str(source))
    if not source.is_dir():
        raise BadInput(f"{_short(source)} is not a folder. Give the folder of an adapter, a zip, or a hub id.")
    entries: list[os.DirEntry[str]] = []
    with os.scandir(source) as listing:
        for entry in listing:
            entries.append(entry)
            if len(entries) > _MOST_ENTRIES:
                raise BadInput(f"{where} has more than {_MOST_ENTRIES:,} entries: it is not the folder of an adapter.")
    files = {entry.name: Path(entry.path) for entry in entries if not entry.is_dir(follow_symlinks=False)}
    kind = kind_of(files, where)
    chosen = {name: _real_file(path, source, where) for name, path in files.items() if _is_wanted(name)}
    total = check_sizes({name: path.stat().st_size for name, path in chosen.items()}, where)
    free_space_or_raise(into, 2 * total + MIB, f"Adding {where}")
    for name, path in chosen.items():
        # Opened without following links or blocking: a file may have been replaced by a link or a pipe.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput(f"{name} in {where} is not a plain file. It is refused.")
            _copy(file, into / name, bound_of(name), f"{name} in {where}")
    return Taken(into, kind, tuple(sorted(set(files) - set(chosen))))


def _real_file(path: Path, folder: Path, where: str) -> Path:
    """The real file. A link may lead to another file of the folder, or into the hub cache that contains the folder."""
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadInput(f"{path.name} in {where} is a link that leads nowhere. Copy the file itself there.") from None
    cache = home.parent.parent if home.parent.name == "snapshots" else None
    allowed = real.parent == home or (cache is not None and real.parent == cache / "blobs")
    if path.is_symlink() and not allowed:
        raise BadInput(f"{path.name} in {where} is a link that leads out of the folder. Copy the file itself there.")
    if not real.is_file():
        raise BadInput(f"{path.name} in {where} is not a plain file. It is refused.")
    return real


def take_zip(source: Path, into: Path, max_ratio: int) -> Taken:
    """Unpack the needed files of a zip into `into`. max_ratio: bytes that one packed byte may unpack to."""
    where = _short(source.name)
    try:
        with source.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise BadInput(f"{where} does not begin as a zip does. Give a zip, a folder or a hub id.")
        with zipfile.ZipFile(source) as packed:
            return _unpacked(packed, into, max_ratio, where)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise BadInput(f"{where} is a broken zip: {_short(error)}. Pack or download it again.") from None
    except (OSError, ValueError, UnicodeError) as error:
        raise BadInput(f"{where} cannot be read as a zip: {_short(error)}. Pack or download it again.") from None


def _unpacked(packed: zipfile.ZipFile, into: Path, max_ratio: int, where: str) -> Taken:
    entries = packed.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise BadInput(f"{where} has {len(entries):,} entries; {_MOST_ENTRIES:,} are allowed. Pack only the adapter.")
    names: dict[str, str] = {}
    for entry in entries:
        _check_entry(entry, max_ratio, where)
        plain = unicodedata.normalize("NFC", entry.filename.rstrip("/")).casefold()
        if plain in names:
            raise BadInput(f"{where} contains {_short(entry.filename)} and {_short(names[plain])}, which are the same "
                           "name on some systems. Pack it again.")  # fmt: skip
        names[plain] = entry.filename
    files = {PurePosixPath(entry.filename): entry for entry in entries if not entry.is_dir()}
    homes = {path.parent for path in files if path.name in (ADAPTER[0], "config.json", ADAPTER[1])}
    shallow = {home for home in homes if len(home.parts) == min(len(other.parts) for other in homes)}
    if len(shallow) > 1:
        raise BadInput(f"{where} contains {len(shallow)} adapters or models. Pack one of them.")
    home = next(iter(shallow), None)
    if home is None:
        kind_of({path.name for path in files}, where)
    inside = {path.name: entry for path, entry in files.items() if path.parent == home}
    kind = kind_of(inside, where)
    chosen = {name: entry for name, entry in inside.items() if _is_wanted(name)}
    total = check_sizes({name: entry.file_size for name, entry in chosen.items()}, where)
    free_space_or_raise(into, 2 * total + MIB, f"Adding {where}")
    for name, entry in chosen.items():
        with packed.open(entry) as file:
            _copy(file, into / name, entry.file_size, f"{name} in {where}")
    return Taken(
        into, kind, tuple(sorted(str(path) for path in files if path.name not in chosen or path.parent != home))
    )


def _check_entry(entry: zipfile.ZipInfo, max_ratio: int, where: str) -> None:
    """Raise BadInput for an entry that no adapter's zip needs."""
    # The name as stored: `filename` is already cut at a NUL, with the system's separators converted.
    name = entry.orig_filename
    parts = name.rstrip("/").split("/")
    if "\\" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise BadInput(f"{where} would write outside its folder: {_short(name)!r}. It is refused.")
    odd = not name.isprintable() or any(part in ("", ".") or part != part.strip() for part in parts) or ":" in name
    if odd or len(name) > _LONGEST_NAME:
        raise BadInput(f"{where} has an entry with the odd name {_short(name)!r}. Pack it again with plain names.")
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "not a plain file"
        raise BadInput(f"{_short(name)} in {where} is {what}. Pack the file itself.")
    if entry.flag_bits & 0x1:
        raise BadInput(f"{_short(name)} in {where} is encrypted. Pack it without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{_short(name)} in {where} is packed in a way that is not supported. Pack it as a normal zip.")
    if not entry.is_dir() and name.lower().endswith(_ARCHIVES):
        raise BadInput(f"{where} contains another archive, {_short(name)}. Unpack that one and give its contents.")
    if entry.file_size > _SMALL and entry.file_size > max_ratio * max(1, entry.compress_size):
        raise BadInput(
            f"{_short(name)} in {where} would unpack to more than {max_ratio} times its size, unlike any weights "
            "file. It is refused."
        )


def _copy(source: IO[bytes], target: Path, most: int, what: str) -> None:
    done = 0
    with target.open("xb") as out:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > most:
                raise BadInput(f"{what} is larger than its listed size. It is refused.")
            out.write(chunk)


def _short(value: object) -> str:
    text = "".join(sign if sign.isprintable() else "·" for sign in str(value))
    return text if len(text) <= 120 else text[:117] + "…"
