"""Open a dataset file for reading: ordinary files only, gzip unpacked on the fly, within the limits."""

import gzip
import stat
import zlib
from pathlib import Path
from typing import IO

from studio.dataset.read.limits import Limits, limit
from studio.errors import BadInput

MIB = 2**20
# Bytes read at a time: large enough to be fast, small enough not to matter for memory.
CHUNK = 2**18
GZIP = b"\x1f\x8b"
# Repetitive text compresses very well; only above this size does the ratio indicate a decompression bomb.
_RATIO_FROM = 8 * MIB


def display_name(path: Path) -> str:
    """The name of a file for messages; bytes that are not text are written as \\udcXX."""
    return (path.name or str(path)).encode("utf-8", "backslashreplace").decode()


class Bytes:
    """The bytes of a file, unpacked if gzipped, read piece by piece within the limits.

    Raises BadInput when the file cannot be read, is too large, is damaged, or exceeds the compression ratio.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.name = display_name(path)
        self.path = path
        self.limits = limits
        self.size = _size(path, self.name)
        self.taken = 0
        self._head = self._first = b""
        if self.size > limits.max_file_mb * MIB:
            raise BadInput(
                f"{self.name} has {self.size / MIB:,.1f} MiB, more than {limits.max_file_mb:,} MiB "
                f"({limit('max_file_mb')})."
            )
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise BadInput(_refused(self.name, error)) from None
        try:
            self.packed = self._file.read(2) == GZIP
            self._file.seek(0)
        except OSError as error:
            self._file.close()
            raise BadInput(_refused(self.name, error)) from None
        self._stream: IO[bytes] = gzip.GzipFile(fileobj=self._file, mode="rb") if self.packed else self._file  # type: ignore[assignment]

    def head(self) -> bytes:
        """The first piece of the file, which the next `read` returns again; empty for an empty file."""
        if not self._head:
            self._head = self._next()
        return self._head

    def read(self) -> bytes:
        """The next piece; empty at the end."""
        data, self._head = self._head or self._next(), b""
        return data

    def begins_with(self, marks: tuple[bytes, ...]) -> bool:
        """Whether the first bytes, unpacked, are one of the marks."""
        return self._first.startswith(marks)

    def position(self) -> int:
        """Number of bytes read from the file as it is on disk."""
        return self.size if self._file.closed else min(self._file.tell(), self.size)

    def close(self) -> None:
        self._stream.close()
        self._file.close()

    def _next(self) -> bytes:
        try:
            data = self._stream.read(CHUNK)
        except EOFError:
            raise BadInput(
                f"{self.name} is cut short: the compressed data is incomplete. Copy or download it again."
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BadInput(
                f"{self.name} is damaged and cannot be unpacked ({error}). Copy or download it again."
            ) from None
        except OSError as error:
            raise BadInput(_refused(self.name, error)) from None
        self._first = self._first or data[:8]
        self.taken += len(data)
        if self.packed:
            self._check_ratio()
        return data

    def _check_ratio(self) -> None:
        if self.taken > self.limits.max_file_mb * MIB:
            raise BadInput(
                f"{self.name} unpacks to more than {self.limits.max_file_mb:,} MiB ({limit('max_file_mb')})."
            )
        most = self.limits.max_compression_ratio
        if self.taken > _RATIO_FROM and self.taken > most * max(self._file.tell(), 1):
            raise BadInput(
                f"{self.name} unpacks to more than {most:,} times its size, which no real dataset does "
                f"({limit('max_compression_ratio')})."
            )


def _size(path: Path, name: str) -> int:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"There is no file {str(path).encode('utf-8', 'backslashreplace').decode()}.") from None
    except OSError as error:
        raise BadInput(_refused(name, error)) from None
    except ValueError:
        raise BadInput(f"{name!r} cannot be a file name. Enter the path of a dataset file.") from None
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{name} is a folder. Use a json, jsonl, csv, tsv or parquet file.")
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{name} is a pipe or a device, not an ordinary file. Save its content as a file first.")
    if status.st_size == 0:
        raise BadInput(f"{name} is empty. It needs at least one example.")
    return status.st_size


def _refused(name: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{name} may not be read by this user. Give this user permission to read it, or copy it."
    return f"{name} cannot be read: {error.strerror or error}. Check the disk and the path."
