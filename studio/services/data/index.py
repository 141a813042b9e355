"""Database index of the dataset folders: one row per folder, rebuilt from the folders."""

from studio.dataset import store as dataset_files
from studio.services.core.studio import Studio
from studio.store import datasets as dataset_rows


def find(studio: Studio) -> None:
    """Bring the index of datasets up to date with the folders on disk."""
    known = dataset_rows.known_ids(studio.database)
    present = {path.name for path in studio.settings.datasets.iterdir() if not path.name.startswith(".")}
    for name in present - known:
        provenance = dataset_files.load(studio.settings.datasets / name)
        if provenance is not None and provenance.id == name:
            put(studio, provenance)
    for name in known - present:
        dataset_rows.forget(studio.database, name)


def put(studio: Studio, provenance: dataset_files.Provenance) -> None:
    """Write the row of a dataset folder."""
    folder = studio.settings.datasets / provenance.id
    size = sum(path.stat().st_size for path in folder.iterdir())
    dataset_rows.put(
        studio.database,
        id=provenance.id,
        owner=provenance.owner,
        name=provenance.name,
        rows=provenance.rows,
        held_out=provenance.held_out,
        format=provenance.format,
        created=provenance.created,
        size=size,
        provenance=dataset_files.as_dict(provenance),
    )
