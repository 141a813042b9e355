"""Datasets: look at a file, add it, list them, see what the model sees."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import resources
from studio.dataset import store as files
from studio.dataset.encode import Encoder
from studio.dataset.formats import Record
from studio.errors import BadInput, NotFound
from studio.recipe import Recipe
from studio.services import keeper, models
from studio.store import datasets as rows_index
from studio.store.tables import Dataset

if TYPE_CHECKING:
    from studio.services.studio import Studio

SAMPLE = "tickets"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as lists show it; size in bytes, created in seconds since the epoch."""

    id: str
    name: str
    rows: int
    held_out: int
    format: str
    why: str
    columns: list[str]
    source: str
    created: float
    size: int
    sha256: str
    rejected: int
    path: str


@dataclass(frozen=True, slots=True)
class FileLook:
    """A file before it is added. format is None when a mapping is needed; mapping is a guess to start from."""

    path: str
    kind: str
    rows: int
    columns: list[str]
    samples: list[dict[str, Any]]
    format: str | None
    why: str
    mapping: dict[str, str]
    ok: int
    rejected: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the model sees it. text: what it stands for; cut: beyond max_length, so never seen."""

    text: str
    id: int
    trained: bool
    special: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One example, token by token: the same ids and labels that the trainer gets."""

    row: int
    text: str
    tokens: list[Token]
    total: int
    trained: int
    cut: int
    note: str


def look_at(studio: "Studio", path: str | Path, mapping: Mapping[str, str] | None = None) -> FileLook:
    """Look at a file without adding it; raises BadInput when it is no dataset."""
    seen = _look(studio, Path(path), mapping)
    guess = seen.mapping or _guess(seen.columns)
    return FileLook(
        str(path),
        seen.kind,
        seen.rows,
        seen.columns,
        seen.samples,
        seen.format,
        seen.why,
        guess,
        len(seen.records),
        [asdict(reject) for reject in seen.rejected],
    )


def add(
    studio: "Studio",
    path: str | Path,
    name: str | None = None,
    mapping: Mapping[str, str] | None = None,
    held_out: str | Path | None = None,
) -> DatasetInfo:
    """Add a file as a dataset; `held_out` is a second file of examples to measure on.

    The same examples added again are found, not doubled. Raises BadInput that names what is wrong and where.
    """
    path = Path(path)
    seen = _look(studio, path, mapping)
    records = files.usable(path, seen)
    if held_out is not None:
        other = Path(held_out)
        records = [
            *records,
            *(replace(record, held_out=True) for record in files.usable(other, _look(studio, other, mapping))),
        ]
    clean = (name or path.stem).strip()[:80] or path.stem
    provenance = files.save(studio.settings.datasets, records, clean, path, seen, studio.owner)
    if studio.keeping:
        keeper.index_dataset(studio, provenance)
    return _info(studio, provenance)


def add_sample(studio: "Studio") -> DatasetInfo:
    """Add the bundled sample: customers' messages to tickets, with its held-out messages."""
    folder = resources.data() / "samples"
    return add(studio, folder / "tickets_train.jsonl", SAMPLE, held_out=folder / "tickets_heldout.jsonl")


def list_datasets(studio: "Studio") -> list[DatasetInfo]:
    """All datasets, newest first."""
    return [_info_of_row(studio, row) for row in rows_index.every(studio.database, studio.owner)]


def get(studio: "Studio", key: str) -> DatasetInfo:
    """The dataset with this name, id or beginning of an id; raises NotFound with the way out."""
    row = rows_index.find(studio.database, studio.owner, key) if key else None
    if row is not None:
        return _info_of_row(studio, row)
    for provenance in files.list_all(studio.settings.datasets):
        # A dataset added a moment ago, while another studio keeps the index.
        if provenance.owner == studio.owner and key and (provenance.name == key or provenance.id.startswith(key)):
            return _info(studio, provenance)
    known = ", ".join(item.name for item in list_datasets(studio)) or "none yet"
    if not key:
        raise BadInput(f"No dataset is chosen (known: {known}).")
    raise NotFound(f"There is no dataset {key!r} (known: {known}). Add one with: studio datasets add FILE")


def rows(studio: "Studio", dataset_id: str, offset: int = 0, limit: int = 50) -> list[dict[str, Any]]:
    """A page of a dataset: row number, prompt and answer as plain text."""
    folder = folder_of(studio, dataset_id)
    return [_as_row(record) for record in files.read_records(folder, offset, limit)]


def folder_of(studio: "Studio", dataset_id: str) -> Path:
    """The folder of a dataset that the asker owns."""
    return studio.settings.datasets / get(studio, dataset_id).id


def see(
    studio: "Studio", dataset_id: str, row: int, model_id: str, values: Mapping[str, Any] | None = None
) -> ExampleView:
    """What the model sees of the `row`-th example (from 1), by the recipe values that shape it."""
    recipe = Recipe().with_values(values or {})
    info = get(studio, dataset_id)
    if not 1 <= row <= info.rows:
        raise BadInput(f"{info.name} has the rows 1 to {info.rows}; there is no row {row}.")
    record = files.read_records(studio.settings.datasets / info.id, row - 1, 1)[0]
    encoder = Encoder(models.folder_of(studio, model_id), recipe.data)
    whole = encoder.encode([record])[0]
    length = recipe.data.max_length
    tokens = [
        Token(
            text,
            id_,
            trained=whole.trained_from <= index < length,
            special=id_ in encoder.special_ids,
            cut=index >= length,
        )
        for index, (text, id_) in enumerate(zip(encoder.pieces(whole), whole.input_ids, strict=True))
    ]
    trained = sum(token.trained for token in tokens)
    cut = sum(token.cut for token in tokens)
    return ExampleView(row, whole.text, tokens, len(tokens), trained, cut, _note(trained, cut, length))


def _note(trained: int, cut: int, length: int) -> str:
    if trained == 0:
        return f"Nothing of the answer is left within {length} tokens: this example would be left out."
    if cut:
        return f"{cut} tokens lie beyond {length} and are cut."
    return ""


def _look(studio: "Studio", path: Path, mapping: Mapping[str, str] | None) -> files.Look:
    return files.look(path, mapping, studio.settings.max_file_mb * 2**20, studio.settings.max_rows)


def _guess(columns: list[str]) -> dict[str, str]:
    """A first mapping from names that columns often have."""
    wishes = {
        "instruction": ("instruction", "question", "prompt", "query", "user", "input"),
        "output": ("output", "answer", "response", "completion", "target", "assistant"),
    }
    lower = {column.lower(): column for column in columns}
    return {name: lower[word] for name, words in wishes.items() for word in words[::-1] if word in lower}


def _as_row(record: Record) -> dict[str, Any]:
    if not record.messages:
        return {"row": record.row, "prompt": "", "answer": record.text, "held_out": record.held_out}
    *before, last = record.messages
    prompt = before[0]["content"] if len(before) == 1 else "\n\n".join(f"{m['role']}: {m['content']}" for m in before)
    return {"row": record.row, "prompt": prompt, "answer": last["content"], "held_out": record.held_out}


def _info(studio: "Studio", found: files.Provenance) -> DatasetInfo:
    folder = studio.settings.datasets / found.id
    size = sum(path.stat().st_size for path in folder.iterdir())
    return DatasetInfo(
        found.id,
        found.name,
        found.rows,
        found.held_out,
        found.format,
        found.why,
        found.columns,
        found.source,
        found.created,
        size,
        found.id,
        found.rejected_count,
        str(folder),
    )


def _info_of_row(studio: "Studio", row: Dataset) -> DatasetInfo:
    told = row.provenance
    columns, why, source, rejected = told["columns"], told["why"], told["source"], told["rejected_count"]
    return DatasetInfo(
        row.id,
        row.name,
        row.rows,
        row.held_out,
        row.format,
        str(why),
        list(columns),
        str(source),
        row.created,
        row.size,
        row.id,
        int(rejected),
        str(studio.settings.datasets / row.id),
    )
