"""Reader for Arrow files and streams, as Feather and the datasets library write them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.dataset.read.arrow.batches import BATCH, BATCH_BYTES, RowMaker, on_disk, reason
from studio.dataset.read.limits import Limits
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes
from studio.errors import BadInput

_FILE, _STREAM = b"ARROW1", b"\xff\xff\xff\xff"
_END = _STREAM + bytes(4)
# Limit on what the schema of a stream can make the library allocate.
_SCHEMA = 64 * MIB


def is_arrow(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an Arrow file or stream."""
    length = int.from_bytes(head[4:8], "little")
    return head.startswith(_FILE) or (head.startswith(_STREAM) and 0 < length <= _SCHEMA)


class Arrow:
    """An open Arrow file or stream. Raises BadInput for a file that is broken, cut short or too large.

    The file is mapped into memory, and every batch is validated before its values are touched. columns: its names.
    media: those with pictures or sound. note: what it is, for people.
    """

    def __init__(self, source: Bytes, limits: Limits, scratch: Path | None) -> None:
        self.name = source.name
        self._limits = limits
        is_file = source.head().startswith(_FILE)
        path, self._unpacked = on_disk(source, scratch, ".arrow")
        self._map: Any = None
        self._maker: RowMaker
        try:
            self._open(path, is_file)
        except BaseException:
            self.close()
            raise
        self.columns, self.media = self._maker.columns, self._maker.media

    def share(self) -> float:
        """Share of the file read so far, 0 to 1."""
        return self._done

    def close(self) -> None:
        for file in (self._map, self._unpacked):
            if file:
                file.close()
        self._map = self._unpacked = None

    def rows(self) -> Iterator[Row | Finding]:
        """Yield the rows; NaN becomes None."""
        import pyarrow as pa

        try:
            for batch in self._batches():
                batch.validate(full=True)
                if self._maker.seen + batch.num_rows > self._limits.max_rows:
                    raise self._maker.too_many(self._maker.seen + batch.num_rows)
                each = min(max(BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1), 1), BATCH)
                for start in range(0, batch.num_rows, each):
                    yield from self._maker.rows(batch.slice(start, each))
        except (pa.ArrowException, OSError, ValueError) as error:
            seen = self._maker.seen
            raise self._broken(error, f" after row {seen}" if seen else "") from None
        self._done = 1.0

    def _batches(self) -> Iterator[Any]:
        if not self._is_file:
            for batch in self._reader:
                self._done = self._map.tell() / self._size
                yield batch
            return
        count = self._reader.num_record_batches
        for place in range(count):
            yield self._reader.get_batch(place)
            self._done = (place + 1) / count

    def _open(self, path: Path, is_file: bool) -> None:
        import pyarrow as pa

        self._is_file, self._done = is_file, 0.0
        self.note = "Arrow" if is_file else "Arrow stream"
        if not is_file and not _has_end(path):
            self.note += " without an end mark (it may be cut short)"
        options = pa.ipc.IpcReadOptions(use_threads=False)
        try:
            self._map = pa.memory_map(str(path))
            self._size = max(self._map.size(), 1)
            opened = pa.ipc.open_file if is_file else pa.ipc.open_stream
            self._reader = opened(self._map, options=options)
            schema = self._reader.schema
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._broken(error, "") from None
        self._maker = RowMaker(self.name, self._limits, schema)

    def _broken(self, error: Exception, where: str) -> BadInput:
        return BadInput(f"{self.name} is a broken Arrow file{where} ({reason(error)}). Copy or save it again.")


def _has_end(path: Path) -> bool:
    """Whether a stream ends in the mark that its writer puts there when it is closed."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - len(_END), 0))
        return file.read() == _END
