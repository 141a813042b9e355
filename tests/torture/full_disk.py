"""Saves for real onto a small disk that is full but for some pages.

`python -m tests.torture.full_disk DISK RUN MODEL EVERY`: RUN is a finished run, whose recipe is trained anew on DISK; a
checkpoint, the adapter and a merged model are then saved with 0, EVERY, 2 * EVERY … pages free until one is whole.
Prints what was counted as JSON.
"""

import contextlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.engine.artefacts import artefacts, merge
from studio.engine.training import callbacks
from studio.engine.workers import export, harness, train
from studio.rundir import Exit, RunDir, read_json, tidy, verify_folder, write_json

PAGE = 4096


class Disk:
    """A disk of our own, and what was counted on it."""

    def __init__(self, root: Path, every: int) -> None:
        self.root, self.every = root, every
        self.counts: dict[str, Counter[str]] = {}

    def fill(self, pages: int) -> None:
        """Leave so many pages."""
        stat = os.statvfs(self.root)
        with (self.root / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - pages * PAGE)

    def free(self) -> None:
        (self.root / "filler").unlink(missing_ok=True)

    def save(self, what: str, final: Path, save: Callable[[Callable[[], None]], Any]) -> Any:
        """Save again and again with ever more room; `save` is told how to fill the disk at the moment it begins."""
        counts = self.counts[what] = Counter({"full": 0, "broken offered": 0, "good ones lost": 0})
        before = {path for path in final.parent.glob("[!.]*") if (path / "MANIFEST.json").exists()}
        for pages in range(0, 10**6, self.every):
            try:
                result = save(lambda pages=pages: self.fill(pages))  # type: ignore[misc]
            except Exception as error:
                assert harness._disk_full(error), repr(error)
                counts["full"] += 1
            else:
                self.free()
                assert verify_folder(final) is None
                counts["pages it needs at most"] = pages
                return result
            self.free()
            assert not list(final.parent.glob(f".{final.name}.*")), "something was left"
            now = {path for path in final.parent.glob("[!.]*") if (path / "MANIFEST.json").exists()}
            counts["broken offered"] += sum(verify_folder(path) is not None for path in now)
            counts["good ones lost"] += len(before - now)
        raise AssertionError("it was never whole")


def main() -> None:
    root, source, model, every = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    disk = Disk(root, every)
    run = RunDir(root / "run")
    run.path.mkdir()
    for name in ("recipe.yaml", "dataset.json", "model.json"):
        shutil.copyfile(source / name, run.path / name)
    text = run.recipe.read_text()
    run.recipe.write_text(text.replace("save_steps: 50", "save_steps: 1"))
    save_checkpoint, save_adapter, merged = artefacts.save_checkpoint, artefacts.save_adapter, merge.merged_model

    def checkpoint(trainer: Any, trained: Any, run: RunDir, moment: Any, stopping: Any) -> Path:
        def save(fill: Callable[[], None]) -> Path:
            fill()
            return save_checkpoint(trainer, trained, run, moment, stopping)

        if moment.step == 1:  # the one before, that must not be lost
            return save(lambda: None)
        return disk.save("checkpoint", run.checkpoints / f"step-{moment.step}", save)

    def adapter(trained: Any, run: RunDir, *more: Any) -> None:
        def save(fill: Callable[[], None]) -> None:
            fill()
            save_adapter(trained, run, *more)

        save(lambda: None)
        disk.save("adapter", run.adapter, save)

    callbacks.save_checkpoint = checkpoint  # type: ignore[assignment]
    train.save_adapter = adapter  # type: ignore[attr-defined]
    artefacts.save_adapter = adapter  # type: ignore[assignment]
    log = (root / "log").open("w")
    with contextlib.redirect_stdout(log):
        harness.serve("", train.train, [str(run.path), "--nonce", "n"])
    end = Exit.read(run)
    assert end is not None and end.cause == "finished", end

    made = RunDir(root / "export")
    made.path.mkdir()
    spec = {"kind": "merged", "run": str(run.path), "source": str(run.adapter), "name": "sums"}
    write_json(made.path / "export.json", spec | {"model": {"id": "tiny", "path": str(model)}})

    def body(work: harness.Worker) -> Exit:
        asked = export.Order.read(made.path)
        proof = export.Proof.take(work, asked)  # what the chat says is the same each time
        export.Proof.take = lambda *_: proof  # type: ignore[method-assign, assignment]

        def save(fill: Callable[[], None]) -> Exit:
            def begin(*things: Any) -> Any:
                fill()
                return merged(*things)

            merge.merged_model = begin
            return export.export_merged(work, asked)

        save(lambda: None)
        disk.free()
        how: Exit = disk.save("merged model", made.path / "merged", save)
        return how

    with contextlib.redirect_stdout(log):
        harness.serve("", body, [str(made.path), "--nonce", "n"])
    end = Exit.read(made)
    assert end is not None and end.cause == "finished", end
    for folder in (run.path, run.checkpoints, made.path):
        tidy(folder)
    assert read_json(run.exit)
    print(json.dumps(disk.counts))


if __name__ == "__main__":
    main()
