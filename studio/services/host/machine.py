"""Device, memory, disk and processor of this machine."""

import time
from dataclasses import dataclass
from typing import Literal

from studio.machine import cpu as processor
from studio.machine import facts as machine_facts
from studio.machine.cpu import Processor
from studio.services.core.studio import Studio


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine at one moment; sizes in bytes. The device is the GPU if there is one, else the processor."""

    device: str
    device_kind: Literal["cpu", "cuda"]
    cores: int
    memory_total: int
    memory_used: int
    device_total: int
    device_used: int
    disk_free: int
    bf16_fast: bool
    compiles: bool

    @property
    def processor(self) -> Processor:
        """The processor as the fast path sees it."""
        threads = self.cores if self.compiles else 0
        return Processor(self.bf16_fast, threads, self.memory_total, processor.lays_out())


@dataclass(slots=True)
class _Seen:
    """The last reading of the machine, and when it was taken (time.monotonic)."""

    last: tuple[float, Machine] | None = None


def lately(studio: Studio, seconds: float) -> Machine:
    """The machine as read at most `seconds` ago: cached because several pages poll it."""
    cached = studio.state(_Seen)
    last = cached.last
    if last is None or time.monotonic() - last[0] > seconds:
        last = cached.last = time.monotonic(), look(studio)
    return last[1]


def answers_in(now: Machine, dtype: str, parameters: int) -> str:
    """The dtype for inference with weights stored in `dtype`.

    On a processor without bfloat16 arithmetic this is float32, several times as fast there, unless the weights would
    then take more than a quarter of the memory.
    """
    room = 4 * parameters <= now.memory_total // 4
    return "float32" if dtype == "bfloat16" and not now.bf16_fast and room else dtype


def look(studio: Studio) -> Machine:
    """Read the state of the machine now."""
    facts = machine_facts.look(studio.settings.home)
    gpu = facts.gpu
    plural = "core" if facts.cores == 1 else "cores"
    return Machine(
        device=gpu.name if gpu else f"CPU, {facts.cores} {plural}",
        device_kind="cuda" if gpu else "cpu",
        cores=facts.cores,
        memory_total=facts.memory_total,
        memory_used=facts.memory_used,
        device_total=gpu.total if gpu else facts.memory_total,
        device_used=gpu.used if gpu else facts.memory_used,
        disk_free=facts.disk_free,
        bf16_fast=facts.bf16_fast or gpu is not None,
        compiles=facts.compiles,
    )
