"""The engine's own writing under kills and full disks: checkpoints, adapters, merged models, archives.

Nothing broken is ever offered, and what was whole before still loads.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.recipe import Recipe
from studio.rundir import RunDir, create, newest_checkpoint, tidy, verify_folder
from studio.services.core.keeper import Keeper
from studio.services.exports import exports
from studio.settings import Settings
from tests.conftest import REPOSITORY
from tests.torture.house import PATIENCE, TIMES, said
from tests.warm import Workers, resume

pytestmark = pytest.mark.engine

KILLS = 2 * TIMES  # of each kind
RECIPE = {
    "model": "tiny", "dataset": "little", "dtype": "float32", "held_out": 0.0, "per_device_train_batch_size": 2, "r": 4,
    "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "gradient_accumulation_steps": 1, "save_total_limit": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers(threads=1)
    yield started
    started.close()


@pytest.fixture(scope="module")
def make(tiny: Path, little: Path) -> Callable[..., RunDir]:
    """A run of the tiny model in some home."""

    def make_run(home: Path, **values: Any) -> RunDir:
        (home / "runs").mkdir(parents=True)
        pointer = {"id": little.name, "path": str(little), "name": "little", "sha256": little.name}
        files = {
            "recipe.yaml": Recipe().with_values({**RECIPE, **values}).to_yaml(),
            "dataset.json": json.dumps(pointer),
            "model.json": json.dumps({"id": "tiny", "path": str(tiny)}),
        }
        return create(home / "runs", "run", files)

    return make_run


@pytest.fixture(scope="module")
def finished(make: Callable[..., RunDir], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = make(tmp_path_factory.mktemp("finished"), max_steps=2)
    assert workers.work(run).cause == "finished", run.log_tail()
    return run


@pytest.fixture
def trained(finished: RunDir, tmp_path: Path) -> RunDir:
    """A finished run of this test's own."""
    run = RunDir(tmp_path / "home" / "runs" / "run")
    shutil.copytree(finished.path, run.path)
    return run


def kill_in(workers: Workers, run: RunDir, work: Any, aside: Callable[[], bool], delay: float) -> bool:
    """Start a worker and kill it `delay` seconds after something that it writes came to be; False if it was over."""
    pid = workers.start(run, work)
    deadline = time.monotonic() + PATIENCE
    while not aside() and not run.exit.exists():
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.0002)
    if not run.exit.exists():
        until = time.monotonic() + delay
        while time.monotonic() < until:
            pass  # a sleep is not as short as these moments are
        with contextlib.suppress(ProcessLookupError):  # it has just come to its end
            os.kill(pid, signal.SIGKILL)
    workers.wait()
    return not run.exit.exists()


def loads(folder: Path) -> None:
    """Whole, and every tensor can be read."""
    from safetensors.torch import load_file

    assert verify_folder(folder) is None, folder
    files = list(folder.glob("*.safetensors"))
    assert files and all(load_file(path) for path in files)


def checked(run: RunDir, names: tuple[str, ...], counts: "Counter[str]") -> None:
    """Nothing broken is offered right after a kill, nor once the studio has tidied up; what is there loads."""
    folders = (run.path, run.checkpoints)
    counts["killed in a write"] += any(
        path.suffix in (".tmp", ".old") for folder in folders if folder.exists() for path in folder.glob(".*")
    )
    for _ in range(2):
        for name in names:
            for folder in run.path.glob(name):
                loads(folder)
                counts["loaded"] += 1
        for folder in folders:
            tidy(folder)
    assert [path for folder in folders if folder.exists() for path in folder.glob(".*")] == []


def test_kills_while_checkpoints_are_written(make: Callable[..., RunDir], workers: Workers, tmp_path: Path) -> None:
    dice, counts, had = random.Random(21), Counter[str](), 0
    run = make(tmp_path, max_steps=10**6, save_steps=1)
    for _ in range(KILLS):
        name = f".step-{had + dice.randrange(1, 4)}.*.tmp"
        asked = lambda name=name: any(run.checkpoints.glob(name))  # noqa: E731
        assert kill_in(workers, run, "train", asked, dice.random() * 0.04), run.log_tail()
        checked(run, ("checkpoints/step-*",), counts)
        newest = newest_checkpoint(run)
        now = int(newest.name.removeprefix("step-")) if newest else 0
        assert now >= had
        counts["written"] += now - had
        had = now
        resume(run)
    said("checkpoints", Counter(kills=KILLS) + counts | {"broken offered": 0, "good ones lost": 0})


def test_kills_while_an_adapter_is_written(trained: RunDir, workers: Workers) -> None:
    dice, counts, steps = random.Random(22), Counter[str](), 2
    while counts["kills"] < KILLS:
        newest = newest_checkpoint(trained)
        assert newest is not None
        steps = int(newest.name.removeprefix("step-")) + 1
        resume(trained, max_steps=steps)
        asked = lambda: any(trained.path.glob(".adapter.*.tmp"))  # noqa: E731
        counts["kills"] += kill_in(workers, trained, "train", asked, dice.random() * 0.025)
        checked(trained, ("checkpoints/step-*", "adapter"), counts)
        loads(trained.adapter)
    resume(trained, max_steps=steps + 1)
    assert workers.work(trained).cause == "finished"
    loads(trained.adapter)
    said("adapters", counts | {"broken offered": 0, "good ones lost": 0})


def order(home: Path, run: RunDir, kind: str, tiny: Path) -> RunDir:
    """An export that nobody has begun."""
    (home / "exports").mkdir(exist_ok=True)
    spec = {"kind": kind, "run": str(run.path), "run_id": run.id, "owner": "local", "source": str(run.adapter)}
    spec |= {"name": "sums", "created": 1.0, "model": {"id": "tiny", "path": str(tiny)}}
    number = len(list((home / "exports").iterdir()))
    return create(home / "exports", f"{number:016x}", {"export.json": json.dumps(spec)})


def anew(export: RunDir) -> RunDir:
    for path in (export.exit, export.worker):
        path.unlink(missing_ok=True)
    return export


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_kills_while_an_export_is_written(
    trained: RunDir, workers: Workers, tmp_path: Path, tiny: Path, kind: str
) -> None:
    home, dice, counts = tmp_path / "home", random.Random(23), Counter[str]()
    old = order(home, trained, kind, tiny)
    began = time.monotonic()
    assert workers.work(old, "export").cause == "finished", old.log_tail()
    took = time.monotonic() - began
    with Keeper(Settings(home=home, offline=True)) as studio:
        while counts["kills"] < KILLS:
            # One is written over a finished one, so that there is something to lose; the other is the first.
            fresh = dice.random() < 0.5
            export = order(home, trained, kind, tiny) if fresh else anew(old)
            name = ".merged.*.tmp" if kind == "merged" else dice.choice([".adapter.*.tmp", ".*.zip.tmp"])
            asked = lambda export=export, name=name: any(export.path.glob(name))  # noqa: E731
            delay = dice.random() * (0.8 * took if kind == "merged" else 0.02)
            if kill_in(workers, export, "export", asked, delay):
                counts["kills"] += 1
                counts["over a whole one"] += not fresh
                left = list(export.path.glob(name))
                assert exports.get(studio, export.id).path is None
                assert not list(export.path.glob(name))
                counts["killed in a write"] += bool(left)
            checked(export, ("merged", "adapter"), counts)
            for archive in export.path.glob("*.zip"):
                assert zipfile.ZipFile(archive).testzip() is None
                counts["archives whole"] += 1
            if fresh:
                shutil.rmtree(export.path)
            else:
                loads(export.path / kind)
        assert workers.work(anew(old), "export").cause == "finished"
        assert exports.get(studio, old.id).path is not None
        loads(old.path / kind)
    said(f"exports, {kind}", counts | {"broken offered": 0, "good ones lost": 0})


def can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this system lets us mount no disk of our own to fill up")
def test_a_disk_that_is_full_at_every_page(trained: RunDir, tmp_path: Path, tiny: Path) -> None:
    """A small disk is filled but for 0, 1, 2 … pages; a checkpoint, an adapter and a merged model are saved to it."""
    mount = tmp_path / "disk"
    mount.mkdir()
    every = 1 if TIMES > 1 else 16
    script = 'mount -t tmpfs -o size=300m tmpfs "$1" && exec "$2" -m tests.torture.full_disk "$1" "$3" "$4" "$5"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(mount), sys.executable]
    done = subprocess.run(
        [*command, str(trained.path), str(tiny), str(every)],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for what, counts in json.loads(done.stdout.splitlines()[-1]).items():
        assert (counts["broken offered"], counts["good ones lost"]) == (0, 0) and counts["full"], what
        said(f"full disk, {what}", counts)
