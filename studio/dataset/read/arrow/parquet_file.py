"""Parquet reader: small batches, plain Python values."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from studio.dataset.read.arrow.cells import values_of
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes
from studio.dataset.read.strict import check_row, unreadable
from studio.errors import BadInput

MAGIC = b"PAR1"
# Maximum rows per batch, even of small rows: pages of repeated texts unpack to far more than the file declares.
_BATCH = 128
_BATCH_BYTES = 4 * MIB
# Limit on what the footer can make the library allocate.
_FOOTER = 64 * MIB


class Parquet:
    """An open parquet file. columns: its names. Raises BadInput for a file that is broken, cut short or too large."""

    def __init__(self, source: Bytes, limits: Limits, scratch: Path | None) -> None:
        self.name = source.name
        self._limits = limits
        self._seen = 0
        self._unpacked: IO[bytes] | None = None
        try:
            path = self._unpack(source, scratch) if source.packed else source.path
            self._check_end(path)
            self._open(path)
        except BaseException:
            self.close()
            raise

    def share(self) -> float:
        """Share of the rows read so far, 0 to 1."""
        return self._seen / self._rows if self._rows else 1.0

    def close(self) -> None:
        if self._unpacked:
            self._unpacked.close()
            self._unpacked = None

    def rows(self) -> Iterator[Row | Finding]:
        """Yield the rows; NaN becomes None."""
        import pyarrow as pa

        each = _BATCH_BYTES * self._rows // max(self._declared, 1)
        total = 0
        try:
            for batch in self._file.iter_batches(batch_size=min(max(each, 1), _BATCH), use_threads=False):
                total += batch.nbytes
                if total > self._limits.max_file_mb * MIB:
                    raise self._too_large()
                columns = [values_of(column) for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    self._seen += 1
                    yield self._row(dict(zip(self.columns, cells, strict=True)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._broken(error, f" after row {self._seen}" if self._seen else "") from None

    def _row(self, values: dict[str, Any]) -> Row | Finding:
        size = sum(len(value) for value in values.values() if isinstance(value, str | bytes))
        if size > self._limits.max_row_mb * MIB:
            reason = f"the row is longer than {self._limits.max_row_mb} MiB ({limit('max_row_mb')})"
            return unreadable(self._seen, reason, "shorten or remove it", "")
        result = check_row(self._seen, values, self._limits, "")
        if isinstance(result, Finding):
            raw = json.dumps(values, ensure_ascii=False, default=lambda item: getattr(item, "reason", str(item)))
            return unreadable(result.row, result.reason, result.fix, raw, result.field)
        return result

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
            self.columns = [str(name) for name in self._file.schema_arrow.names]
            groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
            self._declared = sum(max(group.total_byte_size, 0) for group in groups)
            self._rows = max(metadata.num_rows, 0)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._broken(error, "") from None
        if self._declared > self._limits.max_file_mb * MIB:
            raise self._too_large()
        if self._rows > self._limits.max_rows:
            raise BadInput(f"{self.name} has {self._rows:,} rows, too many ({limit('max_rows')}).")
        twice = [name for place, name in enumerate(self.columns) if name in self.columns[:place]]
        if twice:
            raise BadInput(f"{self.name}: the column {twice[0][:80]!r} appears twice. Give each column a unique name.")
        if not self.columns:
            raise BadInput(f"{self.name} has no columns. It needs at least one example.")

    def _unpack(self, source: Bytes, scratch: Path | None) -> Path:
        # Parquet is read from its end, so a gzipped file must be unpacked to disk.
        self._unpacked = tempfile.NamedTemporaryFile(dir=scratch, suffix=".parquet")  # noqa: SIM115
        while data := source.read():
            self._unpacked.write(data)
        self._unpacked.flush()
        return Path(self._unpacked.name)

    def _check_end(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(0, 2)
            size = file.tell()
            if size >= 12:
                file.seek(-4, 2)
                if file.read() == MAGIC:
                    return
        raise BadInput(f"{self.name} is cut short: a parquet file ends with PAR1. Copy or download it again.")

    def _too_large(self) -> BadInput:
        return BadInput(f"{self.name} unpacks to more than {self._limits.max_file_mb:,} MiB ({limit('max_file_mb')}).")

    def _broken(self, error: Exception, where: str) -> BadInput:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        return BadInput(f"{self.name} is a broken parquet file{where} ({reason}). Copy or download it again.")
