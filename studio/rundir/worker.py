"""Identity, heartbeat and exit record of the worker of a run directory."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

import psutil

from studio.rundir.files import read_json, write_json
from studio.rundir.paths import RunDir

# Exit status of a worker that could not write its exit record because the disk was full.
DISK_FULL_STATUS = 28
FinalState = Literal["completed", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a worker. pid, start time, boot id and nonce must all match for a process to be it."""

    pid: int
    started: float
    boot_id: str
    nonce: str
    host: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, run: RunDir) -> None:
        write_json(run.worker, asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.worker)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


def process_started(pid: int) -> float | None:
    """Start time of the process with this pid, seconds since the epoch; None when there is no such (live) process."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def resident_bytes() -> int:
    """Resident memory of this process, bytes; 0 if unknown."""
    try:
        return int(psutil.Process().memory_info().rss)
    except psutil.Error:
        return 0


def boot_id() -> str:
    """Identifies the current boot of the machine; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat: the worker was alive at `time`, and last progressed at `progress`.

    memory: resident bytes at that time; 0 if unknown.
    """

    time: float
    progress: float
    step: int
    memory: int = 0

    def write(self, run: RunDir) -> None:
        aside = run.path / ".heartbeat.tmp"
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(run.heartbeat)

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.heartbeat)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


Cause = Literal[
    "", "finished", "stopped", "cancelled", "error", "memory", "disk", "nonfinite", "diverged", "unlearnable", "killed",
    "killed_for_memory", "rebooted", "never_started", "hung", "gone",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run ended: its state, a sentence for the user, and what to do next. cause: more specific than the state."""

    state: FinalState
    message: str
    remedy: str = ""
    time: float = field(default_factory=time.time)
    traceback: str = ""
    cause: Cause = ""

    def write(self, run: RunDir) -> None:
        write_json(run.exit, asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.exit)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None
