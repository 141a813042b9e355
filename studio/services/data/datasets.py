"""Datasets: add a checked file, list them, make a new version without some rows or with one corrected."""

import hashlib
import re
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from studio import resources
from studio.dataset import store as files
from studio.dataset.read.accounting import Use
from studio.dataset.read.formats import Layout
from studio.dataset.read.rows import FAULTS, Finding, Kind, Row
from studio.dataset.record import Record
from studio.dataset.tokens import cache
from studio.dataset.verdict import Mark, Verdict, unread, verdict
from studio.errors import BadInput, Conflict, NotFound
from studio.evaluation.files import ORDER
from studio.rundir import commit_folder, read_json, vanish, write_json
from studio.services.core import identity
from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.data import checks
from studio.services.data import index as dataset_index
from studio.services.data.checks import Checked, Options
from studio.store import datasets as rows_index
from studio.store.tables import Dataset

SAMPLE = "tickets"
SAMPLES = (SAMPLE, "tools")  # data/samples
_FEW = 5  # numbers of examples that are spelled out


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as lists show it; size in bytes, created in seconds since the epoch.

    findings: number of each kind; rejected: rows of the file that were left out; mark and verdict: from these counts.
    column_uses and key_uses: what became of the file's columns and of its messages' keys.
    """

    id: str
    name: str
    rows: int
    held_out: int
    format: str
    why: str
    columns: list[str]
    mapping: dict[str, str]
    source: str
    created: float
    size: int
    sha256: str
    rejected: int
    findings: dict[str, int]
    note: str
    parent: str
    changes: str
    mark: Mark
    verdict: str
    path: str
    column_uses: list[Use]
    key_uses: list[Use]


def add(
    studio: Studio,
    path: str | Path,
    name: str | None = None,
    options: Options | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> DatasetInfo:
    """Check a file and add it as a dataset. Raises BadInput that names what is wrong and where."""
    return keep(studio, checks.check(studio, path, options, progress).token, name)


def keep(studio: Studio, token: str, name: str | None = None) -> DatasetInfo:
    """Add a checked file as a dataset. Adding the same examples again returns the dataset that has them.

    Raises BadInput when the check needs a mapping first.
    """
    checked = checks.get(studio, token)
    report, path = checked.report, Path(checked.path)
    from_file = path.is_absolute()
    if report.format is None:
        raise checks.needs_mapping(checked)
    provenance = files.Provenance(
        id=report.id,
        name="",
        source=path.name if from_file else checked.path,
        source_sha256=report.sha256,
        format=report.format,
        why=report.why,
        mapping=report.mapping,
        columns=report.columns,
        rows=report.ok,
        held_out=report.held_out,
        rejected_count=files.left_out(report.counts),
        owner=studio.owner,
        created=time.time(),
        note=report.note,
        findings=report.counts,
        column_uses=report.column_uses,
        key_uses=report.key_uses,
    )
    info = _commit(studio, checks.folder_of(studio, token), provenance, name or name_for(checked.path))
    checks.discard(studio, token)
    return info


def add_sample(studio: Studio, name: str = SAMPLE) -> DatasetInfo:
    """Add a bundled sample with its held-out rows: messages to tickets, or messages to tool calls."""
    if name not in SAMPLES:
        raise BadInput(f"There is no sample {name!r} (known: {', '.join(SAMPLES)}).")
    folder = resources.data() / "samples"
    options = Options(held_out=str(folder / f"{name}_heldout.jsonl"))
    return add(studio, folder / f"{name}_train.jsonl", name, options)


def list_datasets(studio: Studio) -> list[DatasetInfo]:
    """All datasets, newest first."""
    return [_info_of_row(studio, row) for row in rows_index.every(studio.database, identity.shared(studio.owner))]


def get(studio: Studio, key: str) -> DatasetInfo:
    """The dataset with this name, id or id prefix; raises NotFound that lists the known ones."""
    row = rows_index.find(studio.database, identity.shared(studio.owner), key) if key else None
    if row is not None:
        return _info_of_row(studio, row)
    owners = identity.shared(studio.owner)
    for provenance in files.list_all(studio.settings.datasets):
        # A dataset added a moment ago, which the studio that keeps the index has not indexed yet.
        if provenance.owner in owners and key and (provenance.name == key or provenance.id.startswith(key)):
            return _info(studio, provenance)
    known = ", ".join(item.name for item in list_datasets(studio)) or "none yet"
    if not key:
        raise BadInput(f"No dataset is chosen (known: {known}).")
    raise NotFound(f"There is no dataset {key!r} (known: {known}). Add one with: studio datasets add FILE")


def owner_of(studio: Studio, dataset_id: str) -> str:
    """The owner of a dataset that the asker may read: the asker, or everyone; empty if it cannot be read."""
    provenance = files.load(folder_of(studio, dataset_id))
    return provenance.owner if provenance is not None else ""


def folder_of(studio: Studio, dataset_id: str) -> Path:
    """The folder of a dataset that the asker owns."""
    return studio.settings.datasets / get(studio, dataset_id).id


def users(studio: Studio) -> dict[str, set[Path]]:
    """Directories of all owners' runs, adapters and evaluations that need a dataset, by the dataset's id."""
    folders: dict[str, set[Path]] = {}
    settings = studio.settings
    for root in (settings.runs, settings.adapters, settings.evaluations):
        for folder in root.glob("[!.]*"):
            pointer = read_json(folder / "dataset.json") or {}
            order = read_json(folder / ORDER) or {} if root == settings.evaluations else {}
            name = str(pointer.get("id") or Path(str(order.get("dataset_folder") or "")).name)
            if name:
                folders.setdefault(name, set()).add(folder)
    return folders


def delete(studio: Studio, dataset_id: str) -> DatasetInfo:
    """Delete one's own dataset; raises Conflict while a run, adapter or evaluation of this home needs it."""
    info = get(studio, dataset_id)
    if owner_of(studio, info.id) != studio.owner:
        raise NotFound(f"{info.name} is shared with everyone: it cannot be deleted.")
    if needed := len(users(studio).get(info.id, ())):
        many = "1 thing" if needed == 1 else f"{needed} things"
        raise Conflict(
            f"The dataset {info.name} is needed by {many} here (runs, adapters, evaluations). Delete them first."
        )
    folder = studio.settings.datasets / info.id
    vanish(folder)
    cache.forget(folder, studio.settings.cache / "tokens")
    if studio.keeping:
        rows_index.forget(studio.database, info.id)
    return info


def rejects(studio: Studio, dataset_id: str, form: str) -> Iterator[str]:
    """The rows of the source that were left out, with reasons, as text of a jsonl or csv file."""
    return checks.rejects(folder_of(studio, dataset_id), form)


def excluding(
    studio: Studio, dataset_id: str, kinds: Collection[Kind] = (), examples: Collection[int] = ()
) -> Generator[Progress, None, DatasetInfo]:
    """Make a new version without some examples (numbered from 1), or without those with findings of these kinds."""
    info = get(studio, dataset_id)
    folder = studio.settings.datasets / info.id
    if beyond := [place for place in examples if not 1 <= place <= info.rows]:
        raise BadInput(f"{info.name} has the examples 1 to {info.rows}; there is no example {beyond[0]}.")
    flagged = {(item.row, item.held_out) for item in files.iter_findings(folder) if item.kind in kinds}
    drop = set(examples)
    place = 0
    for chunk in files.iter_records(folder):
        for record in chunk:
            place += 1
            if (record.row, record.held_out) in flagged:
                drop.add(place)
    if not drop:
        raise BadInput(f"There is nothing to leave out of {info.name}.")
    few = ", ".join(map(str, sorted(drop)[:_FEW])) + (", …" if len(drop) > _FEW else "")
    words = " and ".join(FAULTS[kind].label for kind in kinds) or f"number {few}"
    many = f"{len(drop):,} examples" if len(drop) > 1 else "1 example"
    return (yield from _revise(studio, info, drop, {}, f"without {many} ({words})"))


def editing(
    studio: Studio, dataset_id: str, example: int, values: Mapping[str, Any]
) -> Generator[Progress, None, DatasetInfo]:
    """Make a new version with one example (numbered from 1) corrected.

    values: a row of any format that needs no mapping ({"messages": […], "tools"?: […]}, {"instruction", "input",
    "output"}, {"text"}). Raises BadInput for anything else.
    """
    info = get(studio, dataset_id)
    if not 1 <= example <= info.rows:
        raise BadInput(f"{info.name} has the examples 1 to {info.rows}; there is no example {example}.")
    old = files.read_records(studio.settings.datasets / info.id, example - 1, 1)[0]
    form = "messages" if "messages" in values else "text" if "text" in values else "alpaca"
    record = Layout(form, {}, list(values)).record(Row(old.row, dict(values)))  # type: ignore[arg-type]
    if isinstance(record, Finding):
        raise BadInput(f"Example {example}, field {record.field or form}: {record.reason}; {record.fix}.")
    edited = replace(record, held_out=old.held_out, rejected=old.rejected)
    return (yield from _revise(studio, info, set(), {example: edited}, f"example {example} corrected"))


def as_values(studio: Studio, dataset_id: str, example: int) -> dict[str, Any]:
    """An example in the form that `editing` takes."""
    info = get(studio, dataset_id)
    if not 1 <= example <= info.rows:
        raise BadInput(f"{info.name} has the examples 1 to {info.rows}; there is no example {example}.")
    record = files.read_records(studio.settings.datasets / info.id, example - 1, 1)[0]
    if record.text:
        return {"text": record.text}
    if record.instruction and not record.tools and all(len(message) == 2 for message in record.messages):
        first, last = record.messages[0], record.messages[-1]
        values = {"instruction": record.instruction, "input": record.input, "output": last["content"]}
        return {"system": first["content"], **values} if first["role"] == "system" else values
    return {"messages": record.messages} | ({"tools": record.tools} if record.tools else {})


def _revise(
    studio: Studio, info: DatasetInfo, drop: set[int], edits: Mapping[int, Record], changes: str
) -> Generator[Progress, None, DatasetInfo]:
    """Make a new version of a dataset without the examples in `drop` and with `edits`, by number from 1."""
    base = studio.settings.datasets / info.id
    old = files.load(base)
    if old is None:
        raise NotFound(f"The dataset {info.name} has no readable provenance.json. Add its file again.")
    order = {
        "task": "revise",
        "base": str(base),
        "drop": sorted(drop),
        "edits": {place: asdict(record) for place, record in edits.items()},
    }
    with checks.staged(studio) as folder:
        report = yield from checks.work(studio, folder, order, info.name)
        provenance = replace(
            old,
            id=report["id"],
            rows=report["ok"],
            held_out=report["held_out"],
            findings=report["counts"],
            rejected_count=files.left_out(report["counts"]),
            owner=studio.owner,
            created=time.time(),
            parent=info.id,
            changes=changes,
        )
        return _commit(studio, folder / report["id"], provenance, info.name)


def name_for(path: str) -> str:
    """Name for a dataset from its file (train.jsonl.gz) or its hub id and revision (owner/name:part@0123abcd)."""
    name = Path(path).name
    return re.split(r"[:@]", name)[0] if "@" in name else name.partition(".")[0] or name


def _commit(studio: Studio, folder: Path, provenance: files.Provenance, name: str) -> DatasetInfo:
    """Move a finished folder to the datasets under a free name, or return the dataset that is already there."""
    address = _address(studio.owner, folder.name)
    final = studio.settings.datasets / address
    existing = files.load(final) if final.is_dir() else None
    if existing is None:
        existing = replace(provenance, id=address, sha256=folder.name, name=_free_name(studio, name))
        write_json(folder / "provenance.json", files.as_dict(existing))
        commit_folder(folder, final)
    if studio.keeping:
        dataset_index.put(studio, existing)
    return _info(studio, existing)


def _address(owner: str, content: str) -> str:
    """Name of a dataset's folder. By content alone, it would reveal to a visitor who else has the same examples."""
    if owner in (identity.LOCAL.owner, identity.EVERYONE):
        return content
    return hashlib.sha256(f"{owner}\0{content}".encode()).hexdigest()


def _free_name(studio: Studio, wanted: str) -> str:
    """The wanted name, or the first free one of name-2, name-3, …"""
    clean = wanted.strip()[:80] or "dataset"
    owners = identity.shared(studio.owner)
    taken = {item.name for item in files.list_all(studio.settings.datasets) if item.owner in owners}
    if clean not in taken:
        return clean
    stem, mark, number = clean.rpartition("-")
    stem = stem if mark and number.isdecimal() else clean
    return next(name for count in range(2, len(taken) + 3) if (name := f"{stem}-{count}") not in taken)


def verdict_of(checked: Checked) -> Verdict:
    """The verdict on a checked file that is not added yet, from the file alone."""
    report = checked.report
    return verdict(report.rows, report.ok, report.counts, warnings=unread(report.column_uses, report.key_uses))


def _info(studio: Studio, provenance: files.Provenance) -> DatasetInfo:
    folder = studio.settings.datasets / provenance.id
    rows = provenance.rows + files.left_out(provenance.findings)
    warnings = unread(provenance.column_uses, provenance.key_uses)
    assessment = verdict(rows, provenance.rows, provenance.findings, warnings=warnings)
    return DatasetInfo(
        id=provenance.id,
        name=provenance.name,
        rows=provenance.rows,
        held_out=provenance.held_out,
        format=provenance.format,
        why=provenance.why,
        columns=provenance.columns,
        mapping=provenance.mapping,
        source=provenance.source,
        created=provenance.created,
        size=sum(path.stat().st_size for path in folder.iterdir()),
        sha256=provenance.sha256 or provenance.id,
        rejected=provenance.rejected_count,
        findings=provenance.findings,
        note=provenance.note,
        parent=provenance.parent,
        changes=provenance.changes,
        mark=assessment.mark,
        verdict=assessment.text,
        path=str(folder),
        column_uses=provenance.column_uses,
        key_uses=provenance.key_uses,
    )


def _info_of_row(studio: Studio, row: Dataset) -> DatasetInfo:
    return _info(studio, files.provenance(row.provenance))
