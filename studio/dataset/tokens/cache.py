"""Counts of tokens on disk, and of small datasets the tokens: a cache, of which anything may be missing at any time."""

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

MOST = 2**30  # bytes of all kept files together
# The fields of the recipe that shape an example's text and what of it is trained.
SHAPING = ("template", "custom_template", "system_prompt", "train_on")
_FORMAT = 2  # of the kept files; another number makes all of them anew
_NAMED = 32  # characters of a dataset's folder by which its kept files are named
_IDS = "ids"  # tokens of all rows, where they are kept: read only by who wants them
_ARRAYS = ("rows", "totals", "held_out", "offsets", "starts", "ends")


def place_of(dataset_folder: Path, model_folder: Path, data: Data, cache: Path) -> Path:
    """Where counts are kept: the name holds all that they depend on. A dataset's folder is named by its content."""
    source = data.own_chat_template or (templates.template_source(model_folder) if data.template == "chat" else "")
    parts = [
        _FORMAT,
        _hash_of(model_folder / "tokenizer.json"),
        source,
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
        known = path.stat()
    except OSError:
        return ""  # the encoder says what is missing
    return _hashed(path, known.st_size, known.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _changed: int) -> str:
    """Tokenizer files have megabytes: each is hashed once, until it changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, counts: Counts, ids: Ints | None) -> None:
    """Written aside, then renamed: a kept file is whole. A disk that is full or read-only only costs the next count."""
    told = json.dumps({"total": counts.refused.total, "rows": counts.refused.rows}).encode()
    arrays = {name: getattr(counts, name) for name in _ARRAYS} | ({} if ids is None else {_IDS: ids})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".counts-", suffix=".tmp", delete=False) as file:
            aside = Path(file.name)
            try:
                np.savez(file, refused=np.frombuffer(told, dtype=np.uint8), **arrays)
                file.close()
                os.replace(aside, path)  # noqa: PTH105 - the one that replaces on every system
            finally:
                aside.unlink(missing_ok=True)
        _make_room(path.parent)
    except OSError:
        return


def read(path: Path) -> Counts | None:
    """Kept counts; None when there are none, or none that can be read."""
    # Used now, by which the next to go is chosen; when it was written, by which others know it, stays.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            told = json.loads(bytes(file["refused"]))
            refused = Refused([(int(row), str(reason)) for row, reason in told["rows"]], int(told["total"]))
            counts = Counts(**arrays, refused=refused)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    fits = len(counts.offsets) == len(counts) + 1 and len(counts.starts) == len(counts.ends) == counts.offsets[-1]
    return counts if fits and len(counts.totals) == len(counts.held_out) == len(counts) else None


def read_tokens(path: Path, counts: Counts) -> Ints | None:
    """The tokens that belong to kept counts; None where they are not kept, or not whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids: Ints = file[_IDS]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return ids if ids.dtype == np.int32 and len(ids) == int(counts.totals.sum(dtype=np.int64)) else None


def forget(dataset_folder: Path, cache: Path) -> None:
    """Delete what is kept of a dataset that goes."""
    for path in cache.glob(f"{glob.escape(dataset_folder.name[:_NAMED])}-*.npz"):
        path.unlink(missing_ok=True)


def _make_room(cache: Path) -> None:
    """Of more than MOST bytes, what was used longest ago goes; the newest stays, however large."""
    found = [(path.stat(), path) for path in cache.glob("*.npz")]
    held = sum(known.st_size for known, _ in found)
    for known, path in sorted(found, key=lambda one: one[0].st_atime_ns)[:-1]:
        if held <= MOST:
            return
        path.unlink(missing_ok=True)
        held -= known.st_size
