"""Datasets on disk: immutable and content-addressed.

    datasets/<sha256>/
      rows.parquet       one Record per row: row, messages, instruction, input, text, held_out, details (record.py)
      unwanted.parquet   only where a file labels answers as bad: their rows, in the same columns
      groups.npy         one int64 per row: the same number for rows that repeat each other, exactly or nearly
      findings.parquet   findings about rows, including rejected ones (dataset/read/rows.py)
      provenance.json    name, source, format, why, mapping, counts, parent, owner, created

The sha256 is that of the records as canonical JSON lines, so the same examples have the same address on any machine
and with any library version. A folder appears complete or not at all and is never changed.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from studio.dataset.read.accounting import Use
from studio.dataset.read.rows import FAULTS, Finding, Kind
from studio.dataset.record import Record, from_stored, to_stored
from studio.errors import NotFound
from studio.rundir import read_json

_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("text", pa.string()),
        ("held_out", pa.bool_()),
        ("details", pa.string()),
    ]
)
_FINDINGS = pa.schema(
    [
        ("row", pa.int64()),
        ("kind", pa.string()),
        ("field", pa.string()),
        ("reason", pa.string()),
        ("fix", pa.string()),
        ("of", pa.int64()),
        ("raw", pa.string()),
        ("held_out", pa.bool_()),
    ]
)
_UNWANTED = "unwanted.parquet"
# Records written and read at a time: a few MiB of text.
CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a dataset came from.

    findings: number of each kind; parent and changes: set for a version edited by hand. sha256: hash of the content,
    where `id` is a different name for it. column_uses and key_uses: what became of the file's columns and of its
    messages' keys; empty for datasets of the studio's first version.
    """

    id: str
    name: str
    source: str
    source_sha256: str
    format: str
    why: str
    mapping: dict[str, str]
    columns: list[str]
    rows: int
    held_out: int
    rejected_count: int
    owner: str
    created: float
    note: str = ""
    findings: dict[str, int] = field(default_factory=dict)
    parent: str = ""
    changes: str = ""
    sha256: str = ""
    column_uses: list[Use] = field(default_factory=list)
    key_uses: list[Use] = field(default_factory=list)


class Writer:
    """Write records and findings into a folder as they arrive; `close` returns the content's sha256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = self.held_out = 0
        self.counts: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._records: list[dict[str, Any]] = []
        self._findings: list[dict[str, Any]] = []
        self._rows_file = pq.ParquetWriter(folder / "rows.parquet", _SCHEMA)
        self._findings_file = pq.ParquetWriter(folder / "findings.parquet", _FINDINGS)
        self._unwanted: list[dict[str, Any]] = []
        self._unwanted_digest = hashlib.sha256()
        self._unwanted_file: pq.ParquetWriter | None = None

    def put(self, record: Record) -> None:
        values = to_stored(record)
        self._digest.update(_canonical(values))
        self._records.append(values)
        self.rows += 1
        self.held_out += record.held_out
        if len(self._records) >= CHUNK:
            self._write(self._rows_file, self._records, _SCHEMA)

    def put_unwanted(self, record: Record) -> None:
        """Keep a row whose answer is labelled bad, beside the rows that can be trained."""
        values = to_stored(record)
        self._unwanted_digest.update(_canonical(values))
        if self._unwanted_file is None:
            self._unwanted_file = pq.ParquetWriter(self.folder / _UNWANTED, _SCHEMA)
        self._unwanted.append(values)
        if len(self._unwanted) >= CHUNK:
            self._write(self._unwanted_file, self._unwanted, _SCHEMA)

    def note(self, finding: Finding) -> None:
        self._findings.append(asdict(finding))
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        if len(self._findings) >= CHUNK:
            self._write(self._findings_file, self._findings, _FINDINGS)

    def close(self, groups: Sequence[int]) -> str:
        """Finish the files and return the sha256. groups: the group number of each record, in order of `put`."""
        self._write(self._rows_file, self._records, _SCHEMA)
        self._write(self._findings_file, self._findings, _FINDINGS)
        if self._unwanted_file is not None:
            self._write(self._unwanted_file, self._unwanted, _SCHEMA)
            self._digest.update(self._unwanted_digest.digest())
        self.abandon()
        np.save(self.folder / "groups.npy", np.asarray(groups, dtype=np.int64))
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in (self._rows_file, self._findings_file, self._unwanted_file):
            if file is not None:
                file.close()

    @staticmethod
    def _write(file: pq.ParquetWriter, values: list[dict[str, Any]], schema: pa.Schema) -> None:
        if values:
            file.write_table(pa.Table.from_pylist(values, schema=schema))
            values.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()


def load(folder: Path) -> Provenance | None:
    """The provenance of a dataset folder; None when there is no readable one."""
    value = read_json(folder / "provenance.json")
    try:
        return provenance(value) if value else None
    except TypeError:
        return None


def provenance(value: Mapping[str, Any]) -> Provenance:
    """Build a provenance from plain values; unknown keys are ignored and missing ones get their default."""
    known = {item.name for item in fields(Provenance)}
    given = {name: item for name, item in value.items() if name in known}
    for name in ("column_uses", "key_uses"):
        given[name] = [Use(**use) for use in given.get(name, ())]
    return Provenance(**given)


def as_dict(provenance: Provenance) -> dict[str, Any]:
    """Convert a provenance to plain values, for JSON."""
    return asdict(provenance)


def list_all(folder: Path) -> list[Provenance]:
    """All datasets below `folder`, newest first."""
    datasets = [load(path) for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted((item for item in datasets if item), key=lambda item: item.created, reverse=True)


def read_records(folder: Path, offset: int = 0, limit: int | None = None) -> list[Record]:
    """Records of a dataset folder, in the order of the source file. Reads only the row groups it needs."""
    records: list[Record] = []
    for chunk in iter_records(folder, offset):
        records += chunk
        if limit is not None and len(records) >= limit:
            return records[:limit]
    return records


def iter_records(folder: Path, offset: int = 0) -> Iterator[list[Record]]:
    """Yield records in chunks of at most CHUNK, starting at position `offset` (from 0)."""
    path = folder / "rows.parquet"
    if not path.is_file():
        raise NotFound(f"The dataset in {folder} has no rows.parquet: it was moved or deleted. Add the file again.")
    groups = _groups(folder)
    with pq.ParquetFile(path) as file:
        at = 0
        for part in range(file.num_row_groups):
            size = file.metadata.row_group(part).num_rows
            if at + size > offset:
                values = file.read_row_group(part).slice(max(0, offset - at)).to_pylist()
                first = max(at, offset)
                together = groups[first : first + len(values)] if groups is not None else [0] * len(values)
                records = [from_stored(row, int(group)) for row, group in zip(values, together, strict=True)]
                for start in range(0, len(records), CHUNK):
                    yield records[start : start + CHUNK]
            at += size


def iter_unwanted(folder: Path) -> Iterator[Record]:
    """Yield the rows whose answers the file labels as bad."""
    path = folder / _UNWANTED
    if path.is_file():
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK):
                yield from map(from_stored, batch.to_pylist())


def _groups(folder: Path) -> Any:
    path = folder / "groups.npy"
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None


def read_findings(
    folder: Path, kinds: Sequence[Kind] = (), offset: int = 0, limit: int | None = None
) -> tuple[list[Finding], int]:
    """A page of a dataset's findings of these kinds (all if empty), in order, and their total number."""
    path = folder / "findings.parquet"
    if not path.is_file():
        return [], 0
    table = pq.read_table(path, filters=pc.field("kind").isin(list(kinds)) if kinds else None)
    return [Finding(**row) for row in table.slice(offset, limit).to_pylist()], table.num_rows


def iter_findings(folder: Path) -> Iterator[Finding]:
    """Yield all findings of a dataset folder, with one chunk in memory at a time."""
    path = folder / "findings.parquet"
    if path.is_file():
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK):
                for row in batch.to_pylist():
                    yield Finding(**row)


def size(folder: Path) -> int:
    """Number of examples in a dataset folder."""
    return int(pq.read_metadata(folder / "rows.parquet").num_rows)


def places(folder: Path, rows: Collection[tuple[int, bool]]) -> dict[tuple[int, bool], int]:
    """Positions (from 1) of the examples that came from these rows, given as (row in the file, held out)."""
    if not rows:
        return {}
    table = pq.read_table(folder / "rows.parquet", columns=["row", "held_out"])
    numbers, apart = table["row"].to_numpy(), table["held_out"].to_numpy()
    near = np.flatnonzero(np.isin(numbers, [row for row, _ in rows]))
    return {(int(numbers[at]), bool(apart[at])): int(at) + 1 for at in near}


def content_sha256(folder: Path) -> str:
    """sha256 of the records currently in a dataset folder; raises NotFound when there are none."""
    digest = hashlib.sha256()
    for chunk in iter_records(folder):
        for record in chunk:
            digest.update(_canonical(to_stored(record)))
    if (folder / _UNWANTED).is_file():
        unwanted = hashlib.sha256()
        for record in iter_unwanted(folder):
            unwanted.update(_canonical(to_stored(record)))
        digest.update(unwanted.digest())
    return digest.hexdigest()


def _canonical(values: dict[str, Any]) -> bytes:
    """A stored record as a line for the hash; without details it is that of the studio's first version."""
    named = values if values["details"] else {key: value for key, value in values.items() if key != "details"}
    return json.dumps(named, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def left_out(counts: dict[str, int]) -> int:
    """Number of rows left out of a dataset, from its counts of findings by kind."""
    return sum(count for kind, count in counts.items() if kind in FAULTS and FAULTS[kind].left_out)
