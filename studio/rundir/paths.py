"""Paths in a run directory, control files for its worker, and creation of run directories."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.errors import BadInput
from studio.rundir.files import MANIFEST, tail, write_text

# The worker handles the first three. `start`: start now, in parallel to others; `killed`: the studio ended the worker.
Control = Literal["stop", "cancel", "checkpoint", "start", "killed"]


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run (or export) directory, and the small files in it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset.json"

    @property
    def about(self) -> Path:
        return self.path / "about.json"

    @property
    def resume(self) -> Path:
        """Instructions for a resuming worker: resume.json, see engine/training/resume.py."""
        return self.path / "resume.json"

    @property
    def attempts(self) -> Path:
        """Files of earlier workers of this run: attempts/1, attempts/2 …"""
        return self.path / "attempts"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def claim(self) -> Path:
        return self.path / "claim.json"

    @property
    def worker(self) -> Path:
        return self.path / "worker.json"

    @property
    def worker_lock(self) -> Path:
        return self.path / "worker.lock"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def trained(self) -> Path | None:
        """Result of the run: its adapter or, if every weight was trained, its model; None before it is complete."""
        return next((folder for folder in (self.adapter, self.model) if (folder / MANIFEST).is_file()), None)

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def ended(self) -> Path:
        """The studio's finding on the end of a worker, see services/runs/ends.py."""
        return self.path / "ended.json"

    def ask(self, what: Control) -> None:
        """Leave a request for the worker, as a control file."""
        self.control.mkdir(exist_ok=True)
        (self.control / what).touch()

    def asked(self, what: Control) -> bool:
        return (self.control / what).exists()

    def consume(self, what: Control) -> bool:
        """Remove the control file; True if there was one, for only one of several callers."""
        try:
            (self.control / what).unlink()
        except FileNotFoundError:
            return False
        return True

    def log_tail(self, limit: int = 8_000) -> str:
        """The last `limit` bytes of the log, see `tail`."""
        return tail(self.log, limit)


def create(root: Path, run_id: str, files: Mapping[str, str]) -> RunDir:
    """Create a new run directory with its input files, atomically."""
    final = root / run_id
    if final.exists():
        raise BadInput(f"There is already a run {run_id}.")
    aside = root / f".{run_id}.{os.getpid()}.tmp"
    aside.mkdir(mode=0o700)
    try:
        for name, text in files.items():
            write_text(aside / name, text)
        (aside / "control").mkdir()
        aside.rename(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return RunDir(final)
