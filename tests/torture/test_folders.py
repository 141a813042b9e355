"""Whole folders under kills and full disks: nothing broken is ever offered, and the one before still loads."""

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio.rundir import RunDir, newest_checkpoint, tidy, verify_folder, whole_folder
from tests.conftest import REPOSITORY
from tests.torture.house import TIMES, said

KILLS = 25 * TIMES
WRITER = """
import os, sys
from pathlib import Path
from studio.rundir import whole_folder
root = Path(sys.argv[1])
print("begun", flush=True)
step = int(sys.argv[2])
while True:
    step += 1
    for final in (root / "checkpoints" / f"step-{step}", root / "adapter"):
        with whole_folder(final) as folder:
            for part in range(6):
                (folder / f"part-{part}").write_bytes(bytes([step % 256]) * 40_000)
            (folder / "step").write_text(str(step))
"""


def offered(run: RunDir) -> list[Path]:
    return [*run.checkpoints.glob("step-*"), *run.path.glob("adapter")]


def test_kills_while_folders_are_written(tmp_path: Path) -> None:
    dice, run = random.Random(3), RunDir(tmp_path)
    broken = missing = finished = 0
    step = had = 0
    for _ in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(run.path), str(step)], stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(dice.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        broken += sum(verify_folder(folder) is not None for folder in offered(run))
        tidy(run.path)
        tidy(run.checkpoints)
        broken += sum(verify_folder(folder) is not None for folder in offered(run))
        newest = newest_checkpoint(run)
        now = int(newest.name.removeprefix("step-")) if newest else 0
        missing += now < had or (had > 0 and not run.adapter.exists())
        finished += now - step
        step = had = now
        left = [path for folder in (run.path, run.checkpoints) if folder.exists() for path in folder.glob(".*")]
        assert left == []
    assert (broken, missing) == (0, 0) and finished > 0
    said("folders", {"kills": KILLS, "written": 2 * finished, "broken offered": broken, "good ones lost": missing})


def test_a_disk_that_fills_at_every_single_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    with whole_folder(run.adapter) as folder:
        (folder / "weights").write_bytes(b"good" * 1000)
    left = 0

    def wrapped(function: Any) -> Any:
        def write(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **more)

        return write

    failures = 0
    for allowed in range(10_000):
        with monkeypatch.context() as patch:
            for place, name in (
                (os, "fsync"),
                (Path, "write_bytes"),
                (Path, "mkdir"),
                (Path, "rename"),
                (Path, "open"),
            ):
                patch.setattr(place, name, wrapped(getattr(place, name)))
            left = allowed
            try:
                with whole_folder(run.adapter) as folder:
                    for part in range(4):
                        (folder / f"part-{part}").write_bytes(b"new")
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failures += 1
                whole = False
            else:
                whole = True
        tidy(run.path)
        assert verify_folder(run.adapter) is None, allowed
        assert [path.name for path in run.path.iterdir()] == ["adapter"], allowed
        if whole:
            break
        kept = {path.name for path in run.adapter.iterdir()}
        assert kept in ({"weights", "MANIFEST.json"}, {*(f"part-{n}" for n in range(4)), "MANIFEST.json"})
    assert whole and failures > 15
    said("full disk", {"places": failures, "broken offered": 0, "good ones lost": 0})


LIMITED = """
import resource, sys
from pathlib import Path
from studio.rundir import whole_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with whole_folder(Path(sys.argv[1])) as folder:
    for part in range(3):
        (folder / f"part-{part}").write_bytes(b"x" * 1000 * (part + 1))
"""


@pytest.mark.parametrize("limit", [0, 500, 1500, 2500, 10_000])
def test_files_that_may_not_grow(tmp_path: Path, limit: int) -> None:
    """The same with the system's own refusal."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "step-1"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode == 0) == (limit == 10_000)
    assert (tmp_path / "step-1").exists() == (done.returncode == 0)
    assert [path.name for path in tmp_path.iterdir()] == (["step-1"] if done.returncode == 0 else [])
