"""Atomic writes of small files, and log files."""

import json
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

# A folder is complete when it contains this file and every file listed in it matches.
MANIFEST = "MANIFEST.json"


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file atomically: to a temporary file, flushed to disk, then renamed."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_new_json(path: Path, value: Any) -> bool:
    """Write a small JSON file atomically, unless it exists: of several concurrent calls, only one returns True."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    write_json(aside, value)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a log as text, from the start of a line; empty if there is no log. Reads only those."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read(limit).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    # Progress bars rewrite their line with \r: keep the last version.
    text = "\n".join(line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n"))
    if size <= limit:
        return text
    cut, _, whole = text.partition("\n")
    return whole or cut


def begin_log(path: Path) -> BinaryIO:
    """Open an empty log for a process to write to, in append mode, so that `shorten` can cut it meanwhile."""
    path.write_bytes(b"")
    return path.open("ab")


def shorten(path: Path, most: int, keep: int) -> bool:
    """Cut a log of more than `most` bytes to its last `keep`, while others append to it; returns whether it did.

    A line written at the same moment may be lost.
    """
    try:
        if path.stat().st_size <= most:
            return False
        with path.open("r+b") as file:
            file.seek(-keep, os.SEEK_END)
            last = file.read().partition(b"\n")[2]
            file.truncate(0)
        with path.open("ab") as file:
            file.write(b"[what came before was left out: the log had grown too long]\n" + last)
    except FileNotFoundError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when the file is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
