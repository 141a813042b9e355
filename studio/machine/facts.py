"""This machine's processors, memory, disk, and NVIDIA GPU if any. Without torch."""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from studio.machine import compiling, ram
from studio.machine import cpu as processor
from studio.machine.cpu import Processor


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first CUDA device, from nvidia-smi; sizes in bytes."""

    name: str
    total: int
    used: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine at one moment; memory (ram.py) and disk in bytes. compiles: whether attention is compiled for it."""

    processor: str
    cores: int
    memory_total: int
    memory_used: int
    disk_free: int
    gpu: Gpu | None
    bf16_fast: bool
    compiles: bool


def look(folder: Path) -> Machine:
    """Describe the machine. folder: determines the disk."""
    now = ram.look()
    return Machine(
        processor=processor.name(),
        cores=cores(),
        memory_total=now.total,
        memory_used=now.used,
        disk_free=shutil.disk_usage(folder).free,
        gpu=_gpu(),
        bf16_fast=processor.multiplies_bf16(),
        compiles=compiling.expected(),
    )


def found_by_training() -> Processor:
    """The processor of this machine, as the fast path uses it."""
    threads = cores() if compiling.expected() else 0
    return Processor(processor.multiplies_bf16(), threads, ram.look().total, processor.lays_out())


def cores() -> int:
    """Number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@functools.cache
def _nvidia_smi() -> str | None:
    return shutil.which("nvidia-smi")


def _gpu() -> Gpu | None:
    program = _nvidia_smi()
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        name, total, used = (part.strip() for part in answer.splitlines()[0].split(","))
        return Gpu(name, int(total) * 2**20, int(used) * 2**20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
