"""Workers as processes on this machine.

A worker has its own session, files for its output and a minimal environment. It does not depend on the process that
started it: if that dies, another finds the worker again by its full identity (pid, start time, boot id and nonce).
"""

import contextlib
import os
import secrets
import signal as signals
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Literal

import psutil

from studio.errors import Unavailable
from studio.launch.environment import worker_environment
from studio.launch.idle_worker import IdleWorker
from studio.machine import exit_evidence
from studio.rundir import Identity, RunDir, boot_id, process_started, read_json, write_json, write_new_json

Found = Literal["never", "claimed", "unborn", "alive", "gone"]

# Seconds a claim may lack the pid of its process, which the launcher writes right after.
CLAIM_SECONDS = 5.0

_children: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
# Exit status of workers started here, by nonce; a signal as a negative number.
_codes: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Process:
    """A started worker, as known to the process that started it."""

    pid: int
    nonce: str


def start(run: RunDir, module: str, seq: int = 0, spare: IdleWorker | None = None) -> Process | None:
    """Start `python -m <module> RUN_DIR --nonce N` for a run directory; None when it is claimed already.

    The claim is written first, so that a studio that dies right after does not start the same run twice. seq: last seq
    of the journal before this worker. spare: an idle worker of the same module to use instead.
    """
    nonce = spare.nonce if spare else secrets.token_hex(8)
    claim = {
        "nonce": nonce,
        "time": time.time(),
        "boot_id": boot_id(),
        "seq": seq,
        # The count at the start, to recognise an out-of-memory kill at its end.
        "oom_kills": exit_evidence.oom_kills(),
    }
    if not write_new_json(run.claim, claim):
        if spare:
            spare.dismiss()
        return None
    try:
        process = spare.process if spare and spare.hand(run) else _begin(run, module, nonce)
    except OSError as error:
        run.claim.unlink(missing_ok=True)
        raise Unavailable(f"The worker could not be started: {error}.") from None
    _children[process.pid] = nonce, process
    # On a full disk the worker must not get lost: without its pid it is found by its nonce.
    with contextlib.suppress(OSError):
        write_json(run.claim, claim | {"pid": process.pid})
    return Process(process.pid, nonce)


def _begin(run: RunDir, module: str, nonce: str) -> "subprocess.Popen[bytes]":
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(run.path), "--nonce", nonce],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=worker_environment(),
            cwd=run.path,
            close_fds=True,
        )


def find(run: RunDir) -> Found:
    """Find the worker of a run directory and return its state.

    `claimed`: it has not written worker.json yet; `unborn`: a launcher claimed the run and died before it started one.
    """
    identity = Identity.read(run)
    if identity is not None:
        return "alive" if _is(identity) else "gone"
    claim = read_json(run.claim)
    if claim is None:
        return "never"
    nonce = str(claim.get("nonce", ""))
    if nonce in _codes:
        return "gone"
    if claim.get("boot_id") != boot_id():
        return "gone" if "pid" in claim else "unborn"
    if "pid" in claim:
        return "claimed" if _carries(int(claim["pid"]), nonce) else _heard_since(run)
    if time.time() - float(claim.get("time", 0)) < CLAIM_SECONDS:
        return "claimed"
    return "claimed" if any(_carries(pid, nonce) for pid in psutil.pids()) else _heard_since(run, "unborn")


def _heard_since(run: RunDir, otherwise: Found = "gone") -> Found:
    """Check again: a worker may have written worker.json, or ended, while its process was searched."""
    identity = Identity.read(run)
    return otherwise if identity is None else "alive" if _is(identity) else "gone"


def _is(identity: Identity) -> bool:
    """Whether the process with this pid is still the worker: pid, start time, boot id and nonce all match."""
    if identity.boot_id != boot_id():
        return False
    started = process_started(identity.pid)
    if started is None or abs(started - identity.started) > 1.0:
        return False
    return _carries(identity.pid, identity.nonce)


def _carries(pid: int, nonce: str) -> bool:
    """Whether a living process has this nonce among its arguments."""
    ours = _children.get(pid)
    if ours is not None and ours[0] == nonce:
        # The arguments of an ending process disappear a moment before its exit status is available.
        return ours[1].poll() is None
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and nonce in process.cmdline()
    except psutil.Error:
        return False


def signal(run: RunDir, number: signals.Signals) -> bool:
    """Send a signal to the worker and its children; False if it is gone."""
    identity, claim = Identity.read(run), read_json(run.claim) or {}
    if identity is not None:
        pid = identity.pid if _is(identity) else None
    else:
        pid = claim.get("pid")
        pid = pid if isinstance(pid, int) and _carries(pid, str(claim.get("nonce"))) else None
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        # The worker leads its own session, so its pid is its process group.
        os.killpg(pid, number)
        return True
    return False


def reap() -> None:
    """Collect the exit status of workers that this process started and that have ended."""
    for pid, (nonce, process) in list(_children.items()):
        code = process.poll()
        if code is not None:
            _codes[nonce] = code
            _children.pop(pid, None)


def ended_with(nonce: str) -> int | None:
    """The exit status of a worker started by this process, a signal as a negative number; None if not known."""
    return _codes.get(nonce)


def reused(identity: Identity) -> bool:
    """Whether another process has the worker's pid now; the worker's own zombie does not count."""
    if identity.boot_id != boot_id():
        return False
    try:
        return abs(psutil.Process(identity.pid).create_time() - identity.started) > 1.0
    except psutil.Error:
        return False


def booted() -> float:
    """When this machine booted, seconds since the epoch."""
    return psutil.boot_time()
