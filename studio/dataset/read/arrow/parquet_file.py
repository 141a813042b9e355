"""Parquet reader: small batches, plain Python values."""

from collections.abc import Iterator
from pathlib import Path

from studio.dataset.read.arrow.batches import BATCH, BATCH_BYTES, RowMaker, on_disk, reason
from studio.dataset.read.limits import Limits
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes
from studio.errors import BadInput

MAGIC = b"PAR1"
# Limit on what the footer can make the library allocate.
_FOOTER = 64 * MIB


class Parquet:
    """An open parquet file. Raises BadInput for a file that is broken, cut short or too large.

    columns: its names. media: those with pictures or sound.
    """

    def __init__(self, source: Bytes, limits: Limits, scratch: Path | None) -> None:
        self.name = source.name
        self._limits = limits
        path, self._unpacked = on_disk(source, scratch, ".parquet")
        try:
            self._check_end(path)
            self._open(path)
        except BaseException:
            self.close()
            raise
        self.columns, self.media = self._maker.columns, self._maker.media

    def share(self) -> float:
        """Share of the rows read so far, 0 to 1."""
        return self._maker.seen / self._rows if self._rows else 1.0

    def close(self) -> None:
        if self._unpacked:
            self._unpacked.close()
            self._unpacked = None

    def rows(self) -> Iterator[Row | Finding]:
        """Yield the rows; NaN becomes None."""
        import pyarrow as pa

        each = min(max(BATCH_BYTES * self._rows // max(self._declared, 1), 1), BATCH)
        try:
            for batch in self._file.iter_batches(batch_size=each, use_threads=False):
                yield from self._maker.rows(batch)
        except (pa.ArrowException, OSError, ValueError) as error:
            seen = self._maker.seen
            raise self._broken(error, f" after row {seen}" if seen else "") from None

    def _open(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(
                path,
                buffer_size=2**16,
                pre_buffer=False,
                thrift_string_size_limit=_FOOTER,
                thrift_container_size_limit=10**6,
            )
            metadata = self._file.metadata
            groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
            self._declared = sum(max(group.total_byte_size, 0) for group in groups)
            self._rows = max(metadata.num_rows, 0)
            schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._broken(error, "") from None
        self._maker = RowMaker(self.name, self._limits, schema)
        if self._declared > self._limits.max_file_mb * MIB:
            raise self._maker.too_large()
        if self._rows > self._limits.max_rows:
            raise self._maker.too_many(self._rows)

    def _check_end(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(0, 2)
            size = file.tell()
            if size >= 12:
                file.seek(-4, 2)
                if file.read() == MAGIC:
                    return
        raise BadInput(f"{self.name} is cut short: a parquet file ends with PAR1. Copy or download it again.")

    def _broken(self, error: Exception, where: str) -> BadInput:
        return BadInput(f"{self.name} is a broken parquet file{where} ({reason(error)}). Copy or download it again.")
