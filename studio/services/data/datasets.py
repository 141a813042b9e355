"""Datasets: add a checked file, list them, make a new version without some rows or with one mended."""

import hashlib
import re
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from studio import resources
from studio.dataset import store as files
from studio.dataset.read.formats import Layout, Record
from studio.dataset.read.rows import FAULTS, Finding, Kind, Row
from studio.dataset.tokens import cache
from studio.dataset.verdict import Mark, Verdict, verdict
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
_FEW = 5  # numbers of examples that are spelled out


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as lists show it; size in bytes, created in seconds since the epoch.

    findings: how many of each kind; rejected: rows of the file that were left out; mark and verdict: from these.
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
    """Add what a check made. The same examples added again are found, not doubled.

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
    )
    info = _commit(studio, checks.folder_of(studio, token), provenance, name or name_for(checked.path))
    checks.discard(studio, token)
    return info


def add_sample(studio: Studio) -> DatasetInfo:
    """Add the bundled sample: customers' messages to tickets, with its held-out messages."""
    folder = resources.data() / "samples"
    options = Options(held_out=str(folder / "tickets_heldout.jsonl"))
    return add(studio, folder / "tickets_train.jsonl", SAMPLE, options)


def list_datasets(studio: Studio) -> list[DatasetInfo]:
    """All datasets, newest first."""
    return [_info_of_row(studio, row) for row in rows_index.every(studio.database, identity.shared(studio.owner))]


def get(studio: Studio, key: str) -> DatasetInfo:
    """The dataset with this name, id or beginning of an id; raises NotFound with the way out."""
    row = rows_index.find(studio.database, identity.shared(studio.owner), key) if key else None
    if row is not None:
        return _info_of_row(studio, row)
    may = identity.shared(studio.owner)
    for provenance in files.list_all(studio.settings.datasets):
        # A dataset added a moment ago, while another studio keeps the index.
        if provenance.owner in may and key and (provenance.name == key or provenance.id.startswith(key)):
            return _info(studio, provenance)
    known = ", ".join(item.name for item in list_datasets(studio)) or "none yet"
    if not key:
        raise BadInput(f"No dataset is chosen (known: {known}).")
    raise NotFound(f"There is no dataset {key!r} (known: {known}). Add one with: studio datasets add FILE")


def owner_of(studio: Studio, dataset_id: str) -> str:
    """Whose a dataset is that the asker may read: theirs, or everyone's."""
    found = files.load(folder_of(studio, dataset_id))
    return found.owner if found is not None else ""


def folder_of(studio: Studio, dataset_id: str) -> Path:
    """The folder of a dataset that the asker owns."""
    return studio.settings.datasets / get(studio, dataset_id).id


def users(studio: Studio) -> dict[str, set[Path]]:
    """The directories of runs, adapters and evaluations, whoever owns them, that need a dataset, by its id."""
    found: dict[str, set[Path]] = {}
    settings = studio.settings
    for root in (settings.runs, settings.adapters, settings.evaluations):
        for folder in root.glob("[!.]*"):
            told = read_json(folder / "dataset.json") or {}
            order = read_json(folder / ORDER) or {} if root == settings.evaluations else {}
            name = str(told.get("id") or Path(str(order.get("dataset_folder") or "")).name)
            if name:
                found.setdefault(name, set()).add(folder)
    return found


def delete(studio: Studio, dataset_id: str) -> DatasetInfo:
    """Delete one's own dataset; raises Conflict while a run, adapter or evaluation is here that was made with it."""
    info = get(studio, dataset_id)
    if owner_of(studio, info.id) != studio.owner:
        raise NotFound(f"{info.name} is everybody's: it stays.")
    if needed := len(users(studio).get(info.id, ())):
        many = "1 thing" if needed == 1 else f"{needed} things"
        raise Conflict(f"{many} here (runs, adapters, evaluations) need the dataset {info.name}. Delete them first.")
    folder = studio.settings.datasets / info.id
    vanish(folder)
    cache.forget(folder, studio.settings.cache / "tokens")
    if studio.keeping:
        rows_index.forget(studio.database, info.id)
    return info


def rejects(studio: Studio, dataset_id: str, form: str) -> Iterator[str]:
    """The rows of the source that were left out, with reasons: the text of a jsonl or csv file."""
    return checks.rejects(folder_of(studio, dataset_id), form)


def excluding(
    studio: Studio, dataset_id: str, kinds: Collection[Kind] = (), examples: Collection[int] = ()
) -> Generator[Progress, None, DatasetInfo]:
    """A new version without some examples (numbers from 1), or without those that have findings of these kinds."""
    info = get(studio, dataset_id)
    folder = studio.settings.datasets / info.id
    if beyond := [place for place in examples if not 1 <= place <= info.rows]:
        raise BadInput(f"{info.name} has the examples 1 to {info.rows}; there is no example {beyond[0]}.")
    told = {(item.row, item.held_out) for item in files.iter_findings(folder) if item.kind in kinds}
    drop = set(examples)
    place = 0
    for chunk in files.iter_records(folder):
        for record in chunk:
            place += 1
            if (record.row, record.held_out) in told:
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
    """A new version with one example (from 1) mended.

    values: a row of any format the studio reads by itself ({"messages": […]}, {"instruction", "input", "output"},
    {"text"}). Raises BadInput when it is none.
    """
    info = get(studio, dataset_id)
    if not 1 <= example <= info.rows:
        raise BadInput(f"{info.name} has the examples 1 to {info.rows}; there is no example {example}.")
    old = files.read_records(studio.settings.datasets / info.id, example - 1, 1)[0]
    form = "messages" if "messages" in values else "text" if "text" in values else "alpaca"
    made = Layout(form, {}, list(values)).record(Row(old.row, dict(values)))  # type: ignore[arg-type]
    if isinstance(made, Finding):
        raise BadInput(f"Example {example}, field {made.field or form}: {made.reason}; {made.fix}.")
    edited = replace(made, held_out=old.held_out)
    return (yield from _revise(studio, info, set(), {example: edited}, f"example {example} mended"))


def as_values(studio: Studio, dataset_id: str, example: int) -> dict[str, Any]:
    """An example as `editing` takes it."""
    info = get(studio, dataset_id)
    if not 1 <= example <= info.rows:
        raise BadInput(f"{info.name} has the examples 1 to {info.rows}; there is no example {example}.")
    record = files.read_records(studio.settings.datasets / info.id, example - 1, 1)[0]
    if record.text:
        return {"text": record.text}
    if record.instruction:
        first, last = record.messages[0], record.messages[-1]
        told = {"instruction": record.instruction, "input": record.input, "output": last["content"]}
        return {"system": first["content"], **told} if first["role"] == "system" else told
    return {"messages": record.messages}


def _revise(
    studio: Studio, info: DatasetInfo, drop: set[int], edits: Mapping[int, Record], changes: str
) -> Generator[Progress, None, DatasetInfo]:
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
    """What to call a dataset by its file (train.jsonl.gz) or its hub id and revision (owner/name:part@0123abcd)."""
    name = Path(path).name
    return re.split(r"[:@]", name)[0] if "@" in name else name.partition(".")[0] or name


def _commit(studio: Studio, made: Path, provenance: files.Provenance, wish: str) -> DatasetInfo:
    """Give a finished folder its place among the datasets, under a name that is free; or find it there already."""
    address = _address(studio.owner, made.name)
    final = studio.settings.datasets / address
    existing = files.load(final) if final.is_dir() else None
    if existing is None:
        existing = replace(provenance, id=address, sha256=made.name, name=_free_name(studio, wish))
        write_json(made / "provenance.json", files.as_dict(existing))
        commit_folder(made, final)
    if studio.keeping:
        dataset_index.put(studio, existing)
    return _info(studio, existing)


def _address(whose: str, content: str) -> str:
    """The name of a dataset's folder. By content alone it would tell a visitor who else has the same examples."""
    if whose in (identity.LOCAL.owner, identity.EVERYONE):
        return content
    return hashlib.sha256(f"{whose}\0{content}".encode()).hexdigest()


def _free_name(studio: Studio, wish: str) -> str:
    """The wished name, or the first free one of name-2, name-3, …"""
    clean = wish.strip()[:80] or "dataset"
    may = identity.shared(studio.owner)
    taken = {item.name for item in files.list_all(studio.settings.datasets) if item.owner in may}
    if clean not in taken:
        return clean
    stem, mark, number = clean.rpartition("-")
    stem = stem if mark and number.isdecimal() else clean
    return next(name for count in range(2, len(taken) + 3) if (name := f"{stem}-{count}") not in taken)


def verdict_of(checked: Checked) -> Verdict:
    """The verdict on a file that was checked and not yet added, from the file alone."""
    report = checked.report
    return verdict(report.rows, report.ok, report.counts)


def _info(studio: Studio, found: files.Provenance) -> DatasetInfo:
    folder = studio.settings.datasets / found.id
    said = verdict(found.rows + files.left_out(found.findings), found.rows, found.findings)
    return DatasetInfo(
        id=found.id,
        name=found.name,
        rows=found.rows,
        held_out=found.held_out,
        format=found.format,
        why=found.why,
        columns=found.columns,
        mapping=found.mapping,
        source=found.source,
        created=found.created,
        size=sum(path.stat().st_size for path in folder.iterdir()),
        sha256=found.sha256 or found.id,
        rejected=found.rejected_count,
        findings=found.findings,
        note=found.note,
        parent=found.parent,
        changes=found.changes,
        mark=said.mark,
        verdict=said.text,
        path=str(folder),
    )


def _info_of_row(studio: Studio, row: Dataset) -> DatasetInfo:
    return _info(studio, files.provenance(row.provenance))
