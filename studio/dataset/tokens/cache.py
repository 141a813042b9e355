"""Disk cache of token counts and, for small datasets, of the tokens. Any entry may be missing at any time."""

import contextlib
import functools
import glob
import hashlib
import json
import os
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from studio.dataset.tokens import template as templates
from studio.dataset.tokens.counts import Counts, Ints
from studio.dataset.tokens.encode import Refused
from studio.recipe.fields import Data
from studio.rundir import read_json

MOST = 2**30  # maximum total size of the cache, bytes
# Recipe fields that determine an example's text and which part of it is trained.
SHAPING = ("template", "custom_template", "system_prompt", "train_on", "per_answer", "fold_system")
_FORMAT = 4  # version of the file format; changing it invalidates all cached files
_NAMED = 32  # characters of the dataset's folder name that begin the name of a cached file
_IDS = "ids"  # tokens of all rows, where cached: read only on demand
_ARRAYS = ("rows", "totals", "held_out", "offsets", "starts", "ends", "remarks", "left_out")


def place_of(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> Path:
    """Path of the cached counts; the name is a hash of everything they depend on. A dataset's folder is named by its
    content."""
    chat = data.template == "chat" and not data.own_chat_template
    source = templates.template_source(model_folder) if chat else data.own_chat_template
    parts = [
        _FORMAT,
        _hash_of(model_folder / "tokenizer.json"),
        source,
        templates.tool_template_source(model_folder) if chat else None,
        templates.special_tokens(model_folder),
        [
            (read_json(model_folder / name) or {}).get("eos_token_id")
            for name in ("generation_config.json", "config.json")
        ],
        data.model_dump(mode="json", include=set(SHAPING)),
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache / f"{dataset_folder.name[:_NAMED]}-{key[:32]}.npz"


def _hash_of(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""  # the encoder reports the missing file
    return _hashed(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _changed: int) -> str:
    """sha256 of a tokenizer file, computed once until the file changes: they are megabytes in size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, counts: Counts, ids: Ints | None) -> None:
    """Write a cache entry atomically, by renaming a temporary file.

    On a full or read-only disk nothing is written, and the next count is computed again.
    """
    refused = json.dumps({"total": counts.refused.total, "rows": counts.refused.rows}).encode()
    arrays = {name: getattr(counts, name) for name in _ARRAYS} | ({} if ids is None else {_IDS: ids})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".counts-", suffix=".tmp", delete=False) as file:
            aside = Path(file.name)
            try:
                np.savez(file, refused=np.frombuffer(refused, dtype=np.uint8), **arrays)
                file.close()
                os.replace(aside, path)  # noqa: PTH105 - replaces an existing file on every system
            finally:
                aside.unlink(missing_ok=True)
        _make_room(path.parent)
    except OSError:
        return


def read(path: Path) -> Counts | None:
    """Cached counts; None when there are none or they cannot be read."""
    # Set the access time, which decides what is evicted next; keep the modification time, which identifies the entry.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            payload = json.loads(bytes(file["refused"]))
            refused = Refused([(int(row), str(reason)) for row, reason in payload["rows"]], int(payload["total"]))
            counts = Counts(**arrays, refused=refused)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    fits = len(counts.offsets) == len(counts) + 1 and len(counts.starts) == len(counts.ends) == counts.offsets[-1]
    lengths = {len(getattr(counts, name)) for name in ("totals", "held_out", "remarks", "left_out")}
    return counts if fits and lengths == {len(counts)} else None


def read_tokens(path: Path, counts: Counts) -> Ints | None:
    """The tokens that belong to cached counts; None where they are not cached or incomplete."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids: Ints = file[_IDS]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return ids if ids.dtype == np.int32 and len(ids) == int(counts.totals.sum(dtype=np.int64)) else None


def forget(dataset_folder: Path, cache: Path) -> None:
    """Delete the cache entries of a dataset that is being deleted."""
    for path in cache.glob(f"{glob.escape(dataset_folder.name[:_NAMED])}-*.npz"):
        path.unlink(missing_ok=True)


def _make_room(cache: Path) -> None:
    """Evict the least recently used entries beyond MOST bytes; the newest stays, however large."""
    entries = [(path.stat(), path) for path in cache.glob("*.npz")]
    total = sum(status.st_size for status, _ in entries)
    for status, path in sorted(entries, key=lambda entry: entry[0].st_atime_ns)[:-1]:
        if total <= MOST:
            return
        path.unlink(missing_ok=True)
        total -= status.st_size
