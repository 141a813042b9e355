"""Rows of Arrow record batches, a few at a time and within the limits: shared by parquet and Arrow files."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from studio.dataset.read.arrow.cells import values_of
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB, Bytes
from studio.dataset.read.strict import check_row, unreadable
from studio.errors import BadInput

# Maximum rows converted at a time, even of small rows: repeated texts unpack to far more than the file declares.
BATCH = 128
BATCH_BYTES = 4 * MIB
# Types of the datasets library for what is not text.
_MEDIA = ("Image", "Audio", "Video", "Pdf")


class RowMaker:
    """Converter from record batches to numbered rows. Raises BadInput for columns that no dataset has.

    columns: their names. media: those with pictures or sound. seen: rows so far.
    """

    def __init__(self, name: str, limits: Limits, schema: Any) -> None:
        self.name = name
        self.columns = [str(column) for column in schema.names]
        self.media = media_columns(schema)
        self.seen = 0
        self._limits = limits
        self._total = 0
        twice = [column for place, column in enumerate(self.columns) if column in self.columns[:place]]
        if twice:
            raise BadInput(f"{name}: the column {twice[0][:80]!r} appears twice. Give each column a unique name.")
        if not self.columns:
            raise BadInput(f"{name} has no columns. It needs at least one example.")

    def rows(self, batch: Any) -> Iterator[Row | Finding]:
        """Yield the rows of a batch that has at most BATCH rows."""
        import pyarrow as pa

        columns = [
            column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
        ]
        self._total += sum(column.nbytes for column in columns)
        if self._total > self._limits.max_file_mb * MIB:
            raise self.too_large()
        for cells in zip(*map(values_of, columns), strict=True):
            self.seen += 1
            yield self._row(dict(zip(self.columns, cells, strict=True)))

    def too_large(self) -> BadInput:
        return BadInput(f"{self.name} unpacks to more than {self._limits.max_file_mb:,} MiB ({limit('max_file_mb')}).")

    def too_many(self, rows: int) -> BadInput:
        return BadInput(f"{self.name} has {rows:,} rows, too many ({limit('max_rows')}).")

    def _row(self, values: dict[str, Any]) -> Row | Finding:
        size = sum(len(value) for value in values.values() if isinstance(value, str | bytes))
        if size > self._limits.max_row_mb * MIB:
            reason = f"the row is longer than {self._limits.max_row_mb} MiB ({limit('max_row_mb')})"
            return unreadable(self.seen, reason, "shorten or remove it", "")
        result = check_row(self.seen, values, self._limits, "")
        if isinstance(result, Finding):
            raw = json.dumps(values, ensure_ascii=False, default=lambda item: getattr(item, "reason", str(item)))
            return unreadable(result.row, result.reason, result.fix, raw, result.field)
        return result


def media_columns(schema: Any) -> list[str]:
    """The columns with pictures, sound or video, by the datasets library's types or by their shape."""
    features = _features(schema)
    return [field.name for field in schema if _is_media(features.get(field.name)) or _is_file(field.type)]


def _features(schema: Any) -> dict[str, Any]:
    """The types that the datasets library writes beside a schema."""
    try:
        value = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_media(feature: Any) -> bool:
    """Whether a column's type in the datasets library is a medium, or a list of one."""
    while isinstance(feature, Sequence) and not isinstance(feature, str) and len(feature) == 1:
        feature = feature[0]
    if not isinstance(feature, dict):
        return False
    return feature.get("_type") in _MEDIA or ("feature" in feature and _is_media(feature["feature"]))


def _is_file(kind: Any) -> bool:
    """Whether a type is {bytes, path}, as the datasets library stores media, or a list of it."""
    import pyarrow as pa

    while hasattr(kind, "value_type"):
        kind = kind.value_type
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
        return False
    return bool(pa.types.is_binary(kind.field("bytes").type) or pa.types.is_large_binary(kind.field("bytes").type))


def on_disk(source: Bytes, scratch: Path | None, suffix: str) -> tuple[Path, IO[bytes] | None]:
    """The path of a file that must be read from its end: its own, or that of a temporary copy, unpacked."""
    if not source.packed:
        return source.path, None
    copy = tempfile.NamedTemporaryFile(dir=scratch, suffix=suffix)  # noqa: SIM115
    try:
        while data := source.read():
            copy.write(data)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return Path(copy.name), copy


def reason(error: Exception) -> str:
    """What a library says about a broken file, shortened."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
