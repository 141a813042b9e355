"""Export an adapter, a merged model or a GGUF: `python -m studio.engine.workers.export EXPORT_DIR --nonce X`.

export.json holds the request (engine/artefacts/request.py). Kinds:

- adapter: the adapter's folder, with the base's name instead of a path on this machine, and a zip of it
- merged: base and adapter as one model (engine/artefacts/merge.py)
- gguf: the merged model, converted and quantised for llama.cpp (engine/artefacts/gguf.py)

Each artefact is reloaded from disk and compared with the model in the chat before it is offered
(engine/artefacts/verify.py). Artefacts appear complete or not at all. Nothing is uploaded.
"""

import shutil
import zipfile
from pathlib import Path

from studio.engine.artefacts import cards
from studio.engine.artefacts.artefacts import copy_license, copy_tokenizer, set_base
from studio.engine.artefacts.cards import license_note
from studio.engine.artefacts.merge import write_merged
from studio.engine.artefacts.request import Order, merged_size
from studio.engine.artefacts.run_facts import facts_of, write_curve
from studio.engine.artefacts.verify import STOPPED, Proof
from studio.engine.workers import harness
from studio.engine.workers.harness import Worker
from studio.errors import BadInput
from studio.evaluation.parity import Parity
from studio.rundir import MANIFEST, Exit, free_space_or_raise, tidy, verify_folder, whole_folder, write_text

MIB = 2**20


def main() -> int:
    return harness.serve("Export an adapter, a merged model or a GGUF.", export)


def export(work: Worker) -> Exit:
    """Make the artefact requested in export.json."""
    tidy(work.run.path)
    order = Order.read(work.run.path)
    method = order.recipe.method.method
    if order.kind == "adapter" and order.full:
        raise BadInput("Method full trains every weight: there is no adapter to export. Export the merged model.")
    if order.kind != "adapter" and not order.full and method in ("prompt", "prefix"):
        raise BadInput(
            f"Method {method} trains virtual tokens, which cannot be merged into the weights. Export the adapter."
        )
    what = "model" if order.full else "adapter"
    work.phase(f"Checking the {what}")
    fault = verify_folder(order.source)
    if fault is not None:
        raise BadInput(
            f"The {what} to export is incomplete or damaged: {fault} Choose another checkpoint, or train again."
        )
    work.state("running")
    if order.kind == "adapter":
        return export_adapter(work, order)
    if order.kind == "merged":
        return export_merged(work, order)
    from studio.engine.artefacts.gguf import export_gguf

    return export_gguf(work, order)


def export_adapter(work: Worker, order: Order) -> Exit:
    """Export the adapter as a folder and as a zip archive next to it."""
    size = sum(path.stat().st_size for path in order.source.rglob("*") if path.is_file())
    free_space_or_raise(work.run.path, 3 * size + MIB, "This export")
    proof = Proof.take(work, order)
    final = work.run.adapter
    with whole_folder(final) as folder:
        work.phase("Copying the adapter")
        for path in adapter_files(order.source):
            shutil.copyfile(path, folder / path.name)
        _companions(order, folder)
        set_base(folder, order.model)
        parity = proof.adapter(folder)
        write_card(order, folder, parity)
    work.leave_if_asked(STOPPED)
    archive = work.run.path / f"{order.file_name}-adapter.zip"
    zip_folder(work, final, archive, order.file_name)
    return Exit("completed", f"The adapter is ready as {archive.name}. {parity.words}")


def export_merged(work: Worker, order: Order) -> Exit:
    """Export base and adapter as one model in `merged/`."""
    size = merged_size(order)
    # An earlier merge stays until the new one is complete.
    free_space_or_raise(work.run.path, size + 64 * MIB, "The merged model")
    proof = Proof.take(work, order)
    with whole_folder(work.run.path / "merged") as folder:
        write_merged(order, proof.device, folder, work.phase)
        write_text(folder / "NOTICE", license_note(order.model))
        work.leave_if_asked(STOPPED)
        parity = proof.merged(folder)
        write_card(order, folder, parity)
        work.phase("Writing to disk")
    return Exit("completed", f"The merged model is ready. {parity.words}")


def write_card(order: Order, folder: Path, parity: Parity) -> None:
    """Write the artefact's README.md and the loss curve it shows."""
    facts = facts_of(order, parity)
    write_curve(facts, folder)
    make = cards.adapter_card if order.kind == "adapter" else cards.merged_card
    write_text(folder / "README.md", make(order.name, order.model, order.dataset, order.recipe, facts=facts))


def _companions(order: Order, folder: Path) -> None:
    # A checkpoint has neither tokenizer nor licence.
    copy_tokenizer(order.model_folder, folder, order.recipe.data.own_chat_template)
    copy_license(order.model_folder, folder)
    write_text(folder / "NOTICE", license_note(order.model))


def adapter_files(source: Path) -> list[Path]:
    """List the files of an adapter's folder; for a checkpoint, leave out what only training needs."""
    needed = ("adapter_", "tokenizer", "chat_template", "special_tokens", "added_tokens")
    return [path for path in sorted(source.iterdir()) if path.is_file() and path.name.startswith(needed)]


def zip_folder(work: Worker, folder: Path, archive: Path, inside: str) -> None:
    """Write the zip archive of a folder under the name `inside`; it appears complete or not at all."""
    what = "Packing the archive"
    work.phase(what)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    total, done = sum(path.stat().st_size for path in files), 0
    aside = archive.with_name(f".{archive.name}.tmp")
    try:
        # Weights do not compress; storing them is faster.
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
