"""Real workers are stopped at random moments: a whole checkpoint is saved, and nothing else is left of them."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from filelock import FileLock

from studio.launch import workers as local
from studio.recipe import Recipe
from studio.rundir import Identity, RunDir, newest_checkpoint, read_events, verify_folder
from studio.services.core.keeper import Keeper
from studio.services.runs import runs
from studio.settings import Settings
from tests.torture.house import TIMES, copy_of, said, wait_for
from tests.warm import Workers

pytestmark = pytest.mark.engine

STOPS = 3 * TIMES
VALUES = {
    "model": "tiny", "dataset": "little", "dtype": "float32", "held_out": 0.2, "per_device_train_batch_size": 2, "r": 4,
    "max_steps": 100_000, "eval_steps": 7, "save_steps": 5, "save_total_limit": 3,
}  # fmt: skip


class Forked:
    """What the studio takes for the process that it started: a fork of one that has the libraries loaded."""

    workers: Workers

    def __init__(self, command: list[str], **_: Any) -> None:
        self.pid = self.workers.start(RunDir(Path(command[3])), nonce=command[-1])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and self.workers.over():
            self.returncode = os.waitstatus_to_exitcode(self.workers.wait())
        return self.returncode


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> Iterator[None]:
    """Real workers, whose start takes no time."""
    nonces = [f"{number:016x}" for number in range(STOPS)]
    Forked.workers, left = Workers(nonces, threads=1), iter(nonces)
    monkeypatch.setattr(local, "secrets", SimpleNamespace(token_hex=lambda _: next(left)))
    monkeypatch.setattr(local, "_children", {})  # later tests must not look for these
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL))
    yield
    Forked.workers.close()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers put what is temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def moment(dice: random.Random, run: RunDir) -> Callable[[], bool]:
    """Some time from its first word to well into its training: so many more lines of its journal, then a breath."""
    lines, pause, since = dice.randrange(1, 60), dice.random() * 0.1, 0.0

    def come() -> bool:
        nonlocal since
        if not since and run.events.exists() and len(read_events(run.events).events) >= lines:
            since = time.monotonic()
        return bool(since) and time.monotonic() >= since + pause

    return come


def left_over(home: Path, scratch: Path) -> list[Path]:
    """Files and folders that somebody meant to finish, and what is temporary but for a cache of torch's."""
    unfinished = [path for path in home.rglob("*") if path.suffix in (".tmp", ".old", ".new")]
    return unfinished + [path for path in scratch.iterdir() if not path.name.startswith("torchinductor_")]


def test_stops_at_any_moment(furnished: Path, tmp_path: Path, scratch: Path, forked: None) -> None:
    dice = random.Random(31)
    counts = {"stops": 0, "before the first step": 0, "checkpoints saved": 0}
    seconds: list[float] = []
    settings: Settings = copy_of(furnished, tmp_path / "home")
    with Keeper(settings) as studio:
        for _ in range(STOPS):
            run = studio.run_dir(runs.start(studio, Recipe().with_values(VALUES)).id)
            wait_for(studio, moment(dice, run))
            asked = time.time()
            runs.stop(studio, run.id)
            wait_for(studio, lambda run=run: runs.get(studio, run.id).final)  # type: ignore[misc]
            info = runs.get(studio, run.id)
            assert (info.state, info.cause) == ("stopped", "stopped"), info.message
            identity = Identity.read(run)
            assert identity is not None
            wait_for(studio, lambda pid=identity.pid: not psutil.pid_exists(pid))  # type: ignore[misc]
            with FileLock(run.worker_lock).acquire(timeout=0):
                pass
            assert left_over(settings.home, scratch) == []
            newest = newest_checkpoint(run)
            assert (newest.name if newest else "step-0") == f"step-{info.step}", info.message
            if newest is None:
                counts["before the first step"] += 1
            else:
                assert run.trained is not None and verify_folder(run.trained) is None and info.can_resume
                saved = [event for event in read_events(run.events).events if event.kind == "checkpoint"][-1]
                assert saved.payload["step"] == info.step
                seconds.append(max(0.0, saved.time - asked))
                counts["checkpoints saved"] += 1
            counts["stops"] += 1
    with FileLock(settings.keeper_lock).acquire(timeout=0):
        pass
    assert left_over(settings.home, scratch) == []
    said("stops", counts | {"left behind": 0})
    if seconds:
        print(f"seconds to a saved checkpoint: median {median(seconds):.2f}, longest {max(seconds):.2f}")
