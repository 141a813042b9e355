"""The index of dataset folders: a row for each, made again from the folders."""

from studio.dataset import store as dataset_files
from studio.services.core.studio import Studio
from studio.store import datasets as dataset_rows


def find(studio: Studio) -> None:
    """Bring the index of datasets up to the folders that are there."""
    known = dataset_rows.known_ids(studio.database)
    there = {path.name for path in studio.settings.datasets.iterdir() if not path.name.startswith(".")}
    for name in there - known:
        found = dataset_files.load(studio.settings.datasets / name)
        if found is not None and found.id == name:
            put(studio, found)
    for name in known - there:
        dataset_rows.forget(studio.database, name)


def put(studio: Studio, found: dataset_files.Provenance) -> None:
    """Give a dataset folder its row."""
    folder = studio.settings.datasets / found.id
    size = sum(path.stat().st_size for path in folder.iterdir())
    dataset_rows.put(
        studio.database,
        id=found.id,
        owner=found.owner,
        name=found.name,
        rows=found.rows,
        held_out=found.held_out,
        format=found.format,
        created=found.created,
        size=size,
        provenance=dataset_files.as_dict(found),
    )
