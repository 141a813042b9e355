"""This machine over the last hour, and whose memory it is.

The keeper looks every five seconds; what it saw is kept for an hour and forgotten when the studio ends. Whose memory it
is, is found out only when someone asks, at most every four seconds.
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
    """Someone who holds memory; bytes. run: the id of a trainer's run, if it is the visitor's own."""

    kind: Kind
    name: str
    memory: int
    gpu: int | None = None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Samples in order of time, and who holds the memory now, the largest first."""

    samples: list[Sample]
    holders: list[Holder]


@dataclass(slots=True)
class _Ring:
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MOST))
    holders: dict[str, tuple[float, list[Holder]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    due: float = 0.0

    def forget_old(self) -> None:
        """Only who looked a moment ago is remembered."""
        since = time.monotonic() - _FRESH
        self.holders = {owner: told for owner, told in self.holders.items() if told[0] > since}


def sample_if_due(studio: Studio) -> None:
    """For the keeper: look at the machine when five seconds have passed since the last look."""
    ring = studio.state(_Ring)
    moment = time.monotonic()
    if moment >= ring.due:
        first = not ring.due
        ring.due = moment + EVERY
        taken = facts.sample(studio.settings.home)
        if not first:  # the processor's share is counted from look to look: the first has none
            ring.samples.append(taken)


def look(studio: Studio, after: float = 0.0) -> Usage:
    """What the keeper saw in the last hour after a moment, and who holds the memory now."""
    ring = studio.state(_Ring)
    since = max(after, time.time() - HOUR)
    with ring.lock:
        moment, holders = ring.holders.get(studio.owner, (0.0, []))
        if time.monotonic() - moment > _FRESH:
            holders = _holders(studio)
            ring.forget_old()
            ring.holders[studio.owner] = time.monotonic(), holders
    return Usage([one for one in list(ring.samples) if one.time > since], holders)


def now(studio: Studio, seconds: float = 0.5) -> Usage:
    """The machine at this moment, for a command: the processor over the next half second."""
    facts.sample(studio.settings.home)
    time.sleep(seconds)
    return Usage([facts.sample(studio.settings.home)], _holders(studio))


def _holders(studio: Studio) -> list[Holder]:
    """Who holds memory. Of a run that is not the visitor's own, neither name nor id is told."""
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
    itself = facts.held_by_itself() if studio.keeping else Held()
    found = [
        Holder("trainer", name or OTHERS_TRAINING, one.memory, one.gpu, run if name else "")
        for run, name in trainers.values()
        if (one := held[f"run {run}"])
    ]
    if worker is not None:
        found.append(Holder("chat", "chat worker", held["chat"].memory, held["chat"].gpu))
    if waiting is not None and "warm" in held:
        found.append(Holder("child", "a worker ready for the next run", held["warm"].memory, held["warm"].gpu))
    if studio.keeping:
        children = max(0, held["studio"].memory - itself.memory)
        found.append(Holder("studio", "the studio", itself.memory, itself.gpu))
        if held["studio"].processes > 1:
            found.append(Holder("child", "other tasks of the studio", children, held["studio"].gpu))
    machine = facts.held_by_all()
    rest = machine.memory - sum(one.memory for one in found)
    gpu = None if machine.gpu is None else max(0, machine.gpu - sum(one.gpu or 0 for one in found))
    found.append(Holder("other", "someone else", max(0, rest), gpu))
    return sorted((one for one in found if one.memory or one.gpu), key=lambda one: -(one.memory + (one.gpu or 0)))


def _trainers(studio: Studio) -> dict[int, tuple[str, str]]:
    """Trainers that live, by pid: run, and its name if it is the visitor's own."""
    found = {}
    for row in rows.unfinished(studio.database):
        run = studio.run_dir(row.id)
        identity = Identity.read(run) if row.state != "queued" else None
        if identity is not None and workers.find(run) == "alive":
            found[identity.pid] = row.id, row.name if row.owner == studio.owner else ""
    return found
