"""What every torture needs: a home whose runs are worked on by the fake trainer, and what its files promise."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio.launch import workers
from studio.recipe import Recipe
from studio.rundir import RunDir, read_events, write_json
from studio.services.core import rounds
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.services.runs import runs
from studio.settings import Settings
from tests.conftest import REPOSITORY, little_rows, write_jsonl
from tests.tiny import tiny_model

WORKER = "tests.torture.worker"
# Far more than anything here needs, even on a slow machine.
PATIENCE = 300.0  # a busy machine is no failure
# How long the tortures are: 1 in the tests, more by STUDIO_TORTURE=N or `python -m tests.torture N`.
TIMES = int(os.environ.get("STUDIO_TORTURE", "1"))


def said(what: str, counts: dict[str, int]) -> None:
    """What a torture counted, for people (shown with pytest -s)."""
    print(f"\n{what}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


@contextlib.contextmanager
def fake_trainer() -> Iterator[None]:
    """Within, the keeper starts the fake trainer."""
    path, trainer = os.environ.get("PYTHONPATH"), rounds.TRAINER
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), path)))
    rounds.TRAINER = WORKER
    try:
        yield
    finally:
        rounds.TRAINER = trainer
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def furnish(home: Path, **settings: Any) -> Settings:
    """A home with the tiny model and a small dataset."""
    made = Settings(home=home, offline=True, **{"keeper_interval": 0.05, **settings})
    model = tiny_model(home.parent / "tiny")
    with Keeper(made) as studio:
        models.add(studio, str(model), lambda *_: None)
        datasets.add(studio, write_jsonl(home.parent / "little.jsonl", little_rows()))
    return made


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A furnished home, made once; tests work on copies of it."""
    return furnish(tmp_path_factory.mktemp("furnished") / "home").home


@pytest.fixture
def home(furnished: Path, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a home whose runs the fake trainer works on; at the end nothing of it lives."""
    with fake_trainer():
        yield copy_of(furnished, tmp_path / "home")
        end_all(tmp_path / "home")


def copy_of(furnished: Path, home: Path, **settings: Any) -> Settings:
    """A home of its own that is furnished alike."""
    shutil.copytree(furnished, home)
    for path in home.glob("studio.db*"):
        path.unlink()
    return Settings(home=home, offline=True, **{"keeper_interval": 0.05, **settings})


def new_run(studio: Studio, name: str = "", **fake: Any) -> RunDir:
    """A run that waits; `fake` is what the fake trainer is told. The keeper sees it at its next look."""
    recipe = Recipe().with_values({"model": "tiny", "dataset": "little", "name": name})
    files, _ = runs.inputs(studio, recipe)
    run_id = f"run-{time.time_ns()}"
    aside = studio.settings.runs / f".{run_id}.tmp"
    (aside / "control").mkdir(parents=True)
    for file, text in files.items():
        (aside / file).write_text(text)
    now = time.time()
    write_json(aside / "about.json", {"name": name or run_id, "owner": studio.owner, "created": now})
    write_json(aside / "fake.json", fake)
    aside.rename(studio.settings.runs / run_id)
    return RunDir(studio.settings.runs / run_id)


def wait_for(studio: Studio, wanted: Callable[[], bool]) -> None:
    """Look round until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not wanted():
        assert time.monotonic() < deadline, "it did not come to be"
        studio.refresh()
        time.sleep(0.01)


def wait_for_end(studio: Studio, run: RunDir) -> runs.RunInfo:
    wait_for(studio, lambda: runs.get(studio, run.id).final)
    return runs.get(studio, run.id)


def acknowledged(run: RunDir) -> list[tuple[int, int]]:
    """(seq, step) of every point that a worker was told is written."""
    path = run.path / "acknowledged"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [(int(seq), int(step)) for seq, step in (line.split() for line in lines)]


def lost_doubled_gaps(studio: Studio, run: RunDir) -> tuple[int, int, int]:
    """Points that were acknowledged and are not shown, steps that are shown twice, steps that are missing."""
    resumed = [
        (event.seq, int(event.payload["step"])) for event in read_events(run.events).events if event.kind == "resumed"
    ]
    valid = {
        (seq, step)
        for seq, step in acknowledged(run)
        if not any(seq < later and step > back for later, back in resumed)
    }
    shown = [point["step"] for point in runs.points(studio, run.id).metrics]
    lost = len({step for _, step in valid} - set(shown))
    doubled = len(shown) - len(set(shown))
    gaps = len(set(range(1, max(shown, default=0) + 1)) - set(shown))
    return lost, doubled, gaps


def workers_of(run: RunDir) -> list[int]:
    """Living processes that work on a run directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(run.path) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def end_all(home: Path) -> None:
    """Kill what still works in a home, and delete it."""
    for process in psutil.process_iter(["cmdline"]):
        if any(str(home) in word for word in process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                process.kill()
    workers.reap()
    shutil.rmtree(home, ignore_errors=True)
