"""Datasets on disk: immutable, addressed by their content.

    datasets/<sha256>/
      rows.parquet       one Record a row: row, messages, instruction, input, text, held_out
      provenance.json    name, source, format, why, mapping, counts, rejected rows, owner, created

The sha256 is over the records as canonical JSON lines, so the same examples have the same address on any machine
and with any library version. A folder appears whole or not at all and is never changed.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from studio.dataset.formats import Format, Record, check_mapping, detect, to_record
from studio.dataset.read import Reject, Rows, read_rows
from studio.errors import BadInput, NotFound
from studio.rundir import read_json, whole_folder, write_json

_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("text", pa.string()),
        ("held_out", pa.bool_()),
    ]
)
# Enough rejected rows to see what is wrong; the rest is counted.
_REJECTS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Look:
    """A file as found: its rows, the records they make, and what was refused."""

    kind: str
    columns: list[str]
    format: Format | None
    why: str
    mapping: dict[str, str]
    rows: int
    samples: list[dict[str, Any]]
    records: list[Record]
    rejected: list[Reject]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a dataset came from."""

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
    rejected: list[dict[str, Any]] = field(default_factory=list)


def look(path: Path, mapping: Mapping[str, str] | None, max_bytes: int, max_rows: int) -> Look:
    """Read a file and make records of it; without a known format and mapping there are none yet."""
    found = read_rows(path, max_bytes, max_rows)
    columns = found.columns
    detection = detect(columns, (row for _, row in found.rows))
    form, why = detection.format, detection.why
    if mapping:
        check_mapping(mapping, columns)
        form, why = "mapped", "you said which column is which"
    records, rejected = _records(found, form, mapping or {})
    samples = [row for _, row in found.rows[:3]]
    return Look(
        found.kind,
        columns,
        form,
        why,
        dict(mapping or {}),
        len(found.rows) + len(found.rejected),
        samples,
        records,
        rejected,
    )


def _records(found: Rows, form: Format | None, mapping: Mapping[str, str]) -> tuple[list[Record], list[Reject]]:
    records: list[Record] = []
    rejected = list(found.rejected)
    if form is not None:
        for number, row in found.rows:
            made = to_record(number, row, form, mapping)
            if isinstance(made, Record):
                records.append(made)
            else:
                rejected.append(made)
    return records, sorted(rejected, key=lambda reject: reject.row)


def usable(path: Path, seen: Look) -> list[Record]:
    """The records of a look; raises BadInput when there are none, naming the first fault."""
    if seen.format is None:
        raise BadInput(f"{path.name}: {seen.why}. On the command line: --map instruction=COLUMN --map output=COLUMN.")
    if not seen.records:
        first = seen.rejected[0]
        field_name = f", field {first.field}" if first.field else ""
        raise BadInput(f"{path.name} has no usable row. Row {first.row}{field_name}: {first.reason}; {first.fix}.")
    return seen.records


def save(folder: Path, records: Sequence[Record], name: str, path: Path, seen: Look, owner: str) -> Provenance:
    """Write a dataset below `folder`, or find the same one there already. Returns its provenance."""
    digest = _digest(records)
    final = folder / digest
    existing = load(final) if final.is_dir() else None
    if existing is not None:
        return existing
    provenance = Provenance(
        id=digest,
        name=name,
        source=path.name,
        source_sha256=_file_sha(path),
        format=str(seen.format),
        why=seen.why,
        mapping=seen.mapping,
        columns=seen.columns,
        rows=len(records),
        held_out=sum(record.held_out for record in records),
        rejected_count=len(seen.rejected),
        owner=owner,
        created=time.time(),
        rejected=[asdict(reject) for reject in seen.rejected[:_REJECTS_KEPT]],
    )
    with whole_folder(final) as aside:
        pq.write_table(
            pa.Table.from_pylist([asdict(record) for record in records], schema=_SCHEMA), aside / "rows.parquet"
        )
        write_json(aside / "provenance.json", asdict(provenance))
    return provenance


def load(folder: Path) -> Provenance | None:
    """The provenance of a dataset folder; None when there is no readable one."""
    value = read_json(folder / "provenance.json")
    try:
        return Provenance(**value) if value else None
    except TypeError:
        return None


def as_dict(provenance: Provenance) -> dict[str, Any]:
    """A provenance as plain values, for JSON."""
    return asdict(provenance)


def list_all(folder: Path) -> list[Provenance]:
    """All datasets below `folder`, newest first."""
    found = [load(path) for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted((item for item in found if item), key=lambda item: item.created, reverse=True)


def read_records(folder: Path, offset: int = 0, limit: int | None = None) -> list[Record]:
    """Records of a dataset folder, in the order of the source file."""
    path = folder / "rows.parquet"
    if not path.is_file():
        raise NotFound(f"The dataset in {folder} has no rows.parquet: it was moved or deleted. Add the file again.")
    table = pq.read_table(path).slice(offset, limit)
    return [Record(**row) for row in table.to_pylist()]


def _digest(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(asdict(record), ensure_ascii=False, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _file_sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
