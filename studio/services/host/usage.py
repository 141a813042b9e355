"""Usage of this machine over the last hour, and which processes hold its memory.

The keeper samples it every five seconds; samples are kept for an hour, in memory only. The holders of memory are
determined only on request, at most every four seconds.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from studio.launch import workers
from studio.machine import usage as facts
from studio.machine.usage import Held, Sample
from studio.rundir import Identity
from studio.services.chat import chat
from studio.services.core.studio import Studio
from studio.services.host.warm import WarmWorker
from studio.store import runs as rows

__all__ = ["EVERY", "Holder", "Sample", "Usage", "look", "now", "sample_if_due"]
EVERY = 5.0  # seconds
HOUR = 3600.0
_FRESH = 4.0
_MOST = int(HOUR / EVERY)
Kind = Literal["trainer", "chat", "child", "studio", "other"]
OTHERS_TRAINING = "another user's training"


@dataclass(frozen=True, slots=True)
class Holder:
    """A holder of memory; sizes in bytes. run: the id of a trainer's run, if it is the visitor's own."""

    kind: Kind
    name: str
    memory: int
    gpu: int | None = None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Samples in order of time, and the current holders of memory, largest first."""

    samples: list[Sample]
    holders: list[Holder]


@dataclass(slots=True)
class _Ring:
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MOST))
    holders: dict[str, tuple[float, list[Holder]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    due: float = 0.0

    def forget_old(self) -> None:
        """Drop cached holders that are out of date."""
        since = time.monotonic() - _FRESH
        self.holders = {owner: entry for owner, entry in self.holders.items() if entry[0] > since}


def sample_if_due(studio: Studio) -> None:
    """For the keeper: sample the machine if five seconds have passed since the last sample."""
    ring = studio.state(_Ring)
    moment = time.monotonic()
    if moment >= ring.due:
        first = not ring.due
        ring.due = moment + EVERY
        sample = facts.sample(studio.settings.home)
        if not first:  # processor load is measured between two samples, so the first has none
            ring.samples.append(sample)


def look(studio: Studio, after: float = 0.0) -> Usage:
    """The keeper's samples of the last hour later than `after`, and the current holders of memory."""
    ring = studio.state(_Ring)
    since = max(after, time.time() - HOUR)
    with ring.lock:
        moment, holders = ring.holders.get(studio.owner, (0.0, []))
        if time.monotonic() - moment > _FRESH:
            holders = _holders(studio)
            ring.forget_old()
            ring.holders[studio.owner] = time.monotonic(), holders
    return Usage([sample for sample in list(ring.samples) if sample.time > since], holders)


def now(studio: Studio, seconds: float = 0.5) -> Usage:
    """The machine now, for a command; the processor load is measured over the next `seconds`."""
    facts.sample(studio.settings.home)
    time.sleep(seconds)
    return Usage([facts.sample(studio.settings.home)], _holders(studio))


def _holders(studio: Studio) -> list[Holder]:
    """The holders of memory. Runs of other owners appear without name and id."""
    trainers = _trainers(studio)
    roots: dict[int, str] = {pid: f"run {run}" for pid, (run, _) in trainers.items()}
    worker = chat.worker_pid(studio)
    if worker is not None:
        roots[worker] = "chat"
    if (waiting := studio.state(WarmWorker).spare) is not None:
        roots[waiting.process.pid] = "warm"
    if studio.keeping:
        roots[facts.this_process()] = "studio"
    held = facts.held_by(roots)
    own = facts.held_by_itself() if studio.keeping else Held()
    holders = [
        Holder("trainer", name or OTHERS_TRAINING, share.memory, share.gpu, run if name else "")
        for run, name in trainers.values()
        if (share := held[f"run {run}"])
    ]
    if worker is not None:
        holders.append(Holder("chat", "chat worker", held["chat"].memory, held["chat"].gpu))
    if waiting is not None and "warm" in held:
        holders.append(Holder("child", "a worker ready for the next run", held["warm"].memory, held["warm"].gpu))
    if studio.keeping:
        children = max(0, held["studio"].memory - own.memory)
        holders.append(Holder("studio", "the studio", own.memory, own.gpu))
        if held["studio"].processes > 1:
            holders.append(Holder("child", "other tasks of the studio", children, held["studio"].gpu))
    machine = facts.held_by_all()
    rest = machine.memory - sum(holder.memory for holder in holders)
    gpu = None if machine.gpu is None else max(0, machine.gpu - sum(holder.gpu or 0 for holder in holders))
    holders.append(Holder("other", "other processes", max(0, rest), gpu))
    shown = [holder for holder in holders if holder.memory or holder.gpu]
    return sorted(shown, key=lambda holder: -(holder.memory + (holder.gpu or 0)))


def _trainers(studio: Studio) -> dict[int, tuple[str, str]]:
    """Live trainers by pid: the id of the run, and its name if it is the visitor's own."""
    trainers = {}
    for row in rows.unfinished(studio.database):
        run = studio.run_dir(row.id)
        identity = Identity.read(run) if row.state != "queued" else None
        if identity is not None and workers.find(run) == "alive":
            trainers[identity.pid] = row.id, row.name if row.owner == studio.owner else ""
    return trainers
