"""Makes something to take away from a run: `python -m studio.engine.export EXPORT_DIR --nonce X`.

export.json says what: {"kind": "adapter" | "merged", "run", "source", "model": {"id", "path"}, "name"}.
adapter: the adapter's folder with the base's name instead of this machine's path, and a zip of it; torch is not
imported. merged: see studio.engine.merge. What it does not do: upload, or convert to GGUF.
"""

import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from studio.engine import worker
from studio.engine.artefacts import copy_license, set_base
from studio.engine.cards import adapter_card, license_note
from studio.engine.loading import TEMPLATE_FILE
from studio.engine.worker import Worker
from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import (
    MANIFEST,
    Exit,
    RunDir,
    free_space_or_raise,
    read_json,
    verify_folder,
    whole_folder,
    write_text,
)

STOPPED = "Stopped: nothing was exported."


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be exported, read from export.json."""

    kind: str
    run: RunDir
    source: Path
    model: str
    model_folder: Path
    name: str

    @classmethod
    def read(cls, folder: Path) -> "Order":
        value = read_json(folder / "export.json")
        if value is None:
            raise BadInput("This export has no readable export.json. Start it again.")
        try:
            run, source = RunDir(Path(value["run"])), Path(value["source"])
            if not source.exists() and run.trained is not None:
                source = run.trained
            order = cls(
                kind=value["kind"],
                run=run,
                source=source,
                model=value["model"]["id"],
                model_folder=Path(value["model"]["path"]),
                name=value["name"],
            )
        except (KeyError, TypeError) as error:
            raise BadInput(f"export.json lacks {error}. Start the export again.") from None
        if order.kind not in ("adapter", "merged"):
            raise BadInput(f"There is no export of kind {order.kind!r}: choose adapter or merged.")
        return order

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(self.run.recipe)

    @property
    def dataset(self) -> str:
        pointer = read_json(self.run.dataset) or {}
        return str(pointer.get("name") or pointer.get("id") or self.recipe.data.dataset)

    @property
    def file_name(self) -> str:
        """The name as part of a file's name, on any system."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "adapter"


def main() -> int:
    return worker.serve("Export an adapter or a merged model.", export)


def export(work: Worker) -> Exit:
    """Make what export.json asks for."""
    order = Order.read(work.run.path)
    method = order.recipe.method.method
    if order.kind == "adapter" and method == "full":
        raise BadInput("Method full trains every weight: there is no adapter to export. Export the merged model.")
    if order.kind == "merged" and method in ("prompt", "prefix"):
        raise BadInput(
            f"What method {method} trains is put before each example and cannot be merged into the weights. "
            "Export the adapter."
        )
    what = "model" if method == "full" else "adapter"
    work.phase(f"Checking the {what}")
    fault = verify_folder(order.source)
    if fault is not None:
        raise BadInput(f"The {what} to export is not whole: {fault} Choose another checkpoint, or train again.")
    work.state("running")
    if order.kind == "adapter":
        return export_adapter(work, order)
    from studio.engine.merge import export_merged

    return export_merged(work, order)


def export_adapter(work: Worker, order: Order) -> Exit:
    """The adapter as a folder and as a zip beside it."""
    size = sum(path.stat().st_size for path in order.source.rglob("*") if path.is_file())
    free_space_or_raise(work.run.path, 2 * size + 2**20, "This export")
    work.phase("Copying the adapter")
    final = work.run.adapter
    with whole_folder(final) as folder:
        for path in adapter_files(order.source):
            shutil.copyfile(path, folder / path.name)
        if order.recipe.data.own_chat_template:  # a checkpoint does not hold it
            write_text(folder / TEMPLATE_FILE, order.recipe.data.own_chat_template)
        set_base(folder, order.model)
        write_text(folder / "README.md", adapter_card(order.name, order.model, order.dataset, order.recipe))
        copy_license(order.model_folder, folder)
        write_text(folder / "NOTICE", license_note(order.model))
    work.leave_if_asked(STOPPED)
    archive = work.run.path / f"{order.file_name}-adapter.zip"
    zip_folder(work, final, archive, order.file_name)
    return Exit("completed", f"The adapter is ready as {archive.name}.")


def adapter_files(source: Path) -> list[Path]:
    """The files of an adapter's folder; from a checkpoint, without what only training needs."""
    needed = ("adapter_", "tokenizer", "chat_template", "special_tokens", "added_tokens")
    return [path for path in sorted(source.iterdir()) if path.is_file() and path.name.startswith(needed)]


def zip_folder(work: Worker, folder: Path, archive: Path, inside: str) -> None:
    """Pack a folder under the name `inside`; the archive appears whole or not at all."""
    what = "Packing the archive"
    work.phase(what)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    total, done = sum(path.stat().st_size for path in files), 0
    aside = archive.with_name(f".{archive.name}.tmp")
    try:
        # Weights do not compress: they are stored, which is quick.
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as packed:
            for path in files:
                packed.write(path, f"{inside}/{path.name}")
                done += path.stat().st_size
                work.progress(what, done, total)
        aside.replace(archive)
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
