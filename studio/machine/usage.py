"""How much of this machine is in use, and by which processes: counters of the system, cheap enough for a timer."""

import contextlib
import functools
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from studio.machine import ram


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine at one moment; bytes, and shares from 0 to 1. gpu: the first CUDA device, None without one."""

    time: float
    cpu: float
    memory_used: int
    memory_total: int
    disk_used: int
    disk_total: int
    gpu_used: int | None = None
    gpu_total: int | None = None
    gpu_busy: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What some processes hold; bytes. gpu: None where it is not told by process."""

    memory: int = 0
    gpu: int | None = None
    processes: int = 0


def sample(folder: Path) -> Sample:
    """Look at the machine; the processor since the last look in this process. `folder` names the disk."""
    now, disk = ram.look(), shutil.disk_usage(folder)
    used, total, busy = _gpu()
    return Sample(
        time.time(), psutil.cpu_percent(None) / 100, now.used, now.total,
        disk.total - disk.free, disk.total, used, total, busy,
    )  # fmt: skip


def held_by(roots: Mapping[int, str]) -> dict[str, Held]:
    """What each of the named processes holds, with what it started that has no name of its own.

    roots: pid to name. Of memory, what is the process's own counts (resident and not shared): files that are only
    mapped are not in use by it, the system takes them back when it must.
    """
    found = dict.fromkeys(roots.values(), Held())
    if not roots:
        return found
    gpu = _gpu_by_process()
    parents: dict[int, int] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            parents[process.pid] = process.ppid()
    for pid in parents:
        name = _name_of(pid, parents, roots)
        if name is None:
            continue
        with contextlib.suppress(psutil.Error):
            memory = psutil.Process(pid).memory_info()
            own = memory.rss - getattr(memory, "shared", 0)
            before = found[name]
            on_gpu = before.gpu if pid not in gpu else (before.gpu or 0) + gpu[pid]
            found[name] = Held(before.memory + max(0, own), on_gpu, before.processes + 1)
    return found


def _name_of(pid: int, parents: Mapping[int, int], roots: Mapping[int, str]) -> str | None:
    """The name of the nearest named process above."""
    seen: set[int] = set()
    while pid not in roots:
        if pid in seen or pid not in parents:
            return None
        seen.add(pid)
        pid = parents[pid]
    return roots[pid]


def held_by_itself() -> Held:
    """What this process holds without what it started."""
    memory = psutil.Process().memory_info()
    return Held(max(0, memory.rss - getattr(memory, "shared", 0)), _gpu_by_process().get(os.getpid()), 1)


def held_by_all() -> Held:
    """What is in use on the machine by anyone."""
    return Held(ram.look().used, _gpu()[0])


def this_process() -> int:
    """The pid of the studio itself."""
    return os.getpid()


# NVIDIA's own library where it is installed (nvidia-ml-py), else nvidia-smi. Neither was run on a GPU so far.


@functools.cache
def _nvml() -> Any:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() else None
    except Exception:  # its errors are its own, and a missing driver is no error here
        return None


@functools.cache
def _smi() -> str | None:
    return shutil.which("nvidia-smi")


def _gpu() -> tuple[int | None, int | None, float | None]:
    """Memory used, memory in all, and how busy the first CUDA device is."""
    library = _nvml()
    if library is not None:
        with contextlib.suppress(Exception):
            device = library.nvmlDeviceGetHandleByIndex(0)
            memory = library.nvmlDeviceGetMemoryInfo(device)
            return int(memory.used), int(memory.total), library.nvmlDeviceGetUtilizationRates(device).gpu / 100
    program = _smi()
    if program is not None:
        query = [program, "--id=0", "--query-gpu=memory.used,memory.total,utilization.gpu"]
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
            told = subprocess.run(
                [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
            ).stdout
            used, total, busy = (part.strip() for part in told.splitlines()[0].split(","))
            return int(used) * 2**20, int(total) * 2**20, float(busy) / 100
    return None, None, None


def _gpu_by_process() -> dict[int, int]:
    library, found = _nvml(), {}
    if library is not None:
        with contextlib.suppress(Exception):
            device = library.nvmlDeviceGetHandleByIndex(0)
            for process in library.nvmlDeviceGetComputeRunningProcesses(device):
                found[int(process.pid)] = int(process.usedGpuMemory or 0)
    return found
