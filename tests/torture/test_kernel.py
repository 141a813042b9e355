"""The kernel itself ends a worker that takes more memory than there is, and the run says so."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.machine import ram
from studio.settings import Settings
from tests.conftest import REPOSITORY
from tests.torture.house import TIMES, said

LIMIT = 600 * 2**20  # the studio alone takes 150 MiB


def _bounded(folder: Path) -> Path | None:
    """A control group of our own below `folder`, with a limit that we may set; None where we may not."""
    group = folder / f"lora-studio-torture-{os.getpid()}-{time.time_ns()}"
    try:
        group.mkdir()
    except OSError:
        return None
    if any(os.access(group / name, os.W_OK) for name in ("memory.max", "memory.limit_in_bytes")):
        return group
    group.rmdir()
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    own = [*ram.groups("memory", Path("/sys/fs/cgroup/memory")), *ram.groups("", Path("/sys/fs/cgroup"))]
    found = next((group for folder in own if folder.is_dir() and (group := _bounded(folder))), None)
    if found is None:
        pytest.skip("this system lets us bound the memory of no control group")
    yield found
    with contextlib.suppress(OSError):
        found.rmdir()


@pytest.mark.parametrize("number", range(TIMES))
def test_the_kernel_ends_a_worker_for_memory(home: Settings, group: Path, number: int) -> None:
    command = [sys.executable, "-m", "tests.torture.starved", str(home.home), str(group), str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["state"], told["cause"], told["step"]) == ("interrupted", "killed_for_memory", 7), told
    assert "memory ran out" in told["message"] and told["can_resume"]
    said("killed by the kernel for memory", {"times": number + 1})
