"""Usage of this machine, in total and by process, from system counters that are cheap enough for a timer."""

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
    """Usage at one moment; bytes, and shares from 0 to 1. gpu_*: the first CUDA device, None without one."""

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
    """Memory used by some processes, bytes. gpu: None if not known per process."""

    memory: int = 0
    gpu: int | None = None
    processes: int = 0


def sample(folder: Path) -> Sample:
    """Sample the usage; that of the processor since the last call in this process. folder: determines the disk."""
    now, disk = ram.look(), shutil.disk_usage(folder)
    used, total, busy = _gpu()
    return Sample(
        time.time(), psutil.cpu_percent(None) / 100, now.used, now.total,
        disk.total - disk.free, disk.total, used, total, busy,
    )  # fmt: skip


def held_by(roots: Mapping[int, str]) -> dict[str, Held]:
    """Memory used by each of the named processes and its children, except those with their own name.

    roots: pid to name. Only private resident memory counts: mapped files are not, since the system can reclaim them.
    """
    held = dict.fromkeys(roots.values(), Held())
    if not roots:
        return held
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
            before = held[name]
            on_gpu = before.gpu if pid not in gpu else (before.gpu or 0) + gpu[pid]
            held[name] = Held(before.memory + max(0, own), on_gpu, before.processes + 1)
    return held


def _name_of(pid: int, parents: Mapping[int, int], roots: Mapping[int, str]) -> str | None:
    """The name of the nearest named ancestor of a process, or its own."""
    seen: set[int] = set()
    while pid not in roots:
        if pid in seen or pid not in parents:
            return None
        seen.add(pid)
        pid = parents[pid]
    return roots[pid]


def held_by_itself() -> Held:
    """Memory used by this process, without its children."""
    memory = psutil.Process().memory_info()
    return Held(max(0, memory.rss - getattr(memory, "shared", 0)), _gpu_by_process().get(os.getpid()), 1)


def held_by_all() -> Held:
    """Memory in use on the machine by all processes."""
    return Held(ram.look().used, _gpu()[0])


def this_process() -> int:
    """The pid of the studio itself."""
    return os.getpid()


# NVIDIA's library if installed (nvidia-ml-py), else nvidia-smi. Neither has been run on a GPU so far.


@functools.cache
def _nvml() -> Any:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() else None
    except Exception:  # it has its own error classes, and a missing driver is not an error here
        return None


@functools.cache
def _smi() -> str | None:
    return shutil.which("nvidia-smi")


def _gpu() -> tuple[int | None, int | None, float | None]:
    """Used memory, total memory and utilisation of the first CUDA device."""
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
            output = subprocess.run(
                [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
            ).stdout
            used, total, busy = (part.strip() for part in output.splitlines()[0].split(","))
            return int(used) * 2**20, int(total) * 2**20, float(busy) / 100
    return None, None, None


def _gpu_by_process() -> dict[int, int]:
    library, used = _nvml(), {}
    if library is not None:
        with contextlib.suppress(Exception):
            device = library.nvmlDeviceGetHandleByIndex(0)
            for process in library.nvmlDeviceGetComputeRunningProcesses(device):
                used[int(process.pid)] = int(process.usedGpuMemory or 0)
    return used
