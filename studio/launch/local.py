"""Workers as processes of this machine.

A worker gets its own session, files for its output and an environment stripped to what it needs. It owes nothing
to the process that started it: that one may die, and another finds the worker again by its full identity (pid,
start time, boot id and nonce).
"""

import contextlib
import ctypes.util
import functools
import os
import secrets
import signal as signals
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from studio.errors import Unavailable
from studio.rundir import Identity, RunDir, boot_id, process_started, read_json, write_json

Found = Literal["never", "claimed", "alive", "gone"]

# What a worker may see of our environment. Everything else (tokens, cookies, a shell's leftovers) stays behind.
_ENV_KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TEMP",
    "TMP",
    "SYSTEMROOT",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NVIDIA_VISIBLE_DEVICES",
)
_ENV_KEPT_PREFIXES = ("LC_", "MALLOC_", "CUDA_", "NCCL_", "PYTORCH_", "TORCH_", "STUDIO_")
# A claim older than this whose worker never wrote its name did not start.
CLAIM_SECONDS = 60.0

_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Process:
    """A started worker, as far as the starter knows it."""

    pid: int
    nonce: str


def worker_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a worker: what it needs of ours, set for offline and quiet work."""
    kept = {
        name: value for name, value in os.environ.items() if name in _ENV_KEPT or name.startswith(_ENV_KEPT_PREFIXES)
    }
    kept |= {
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "KINETO_LOG_LEVEL": "99",  # torch's profiler, which counts memory, would write into the log
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if "LD_PRELOAD" not in kept:
        kept = allocator()[1] | kept
    return kept | dict(extra or {})


@functools.cache
def allocator() -> tuple[str, dict[str, str]]:
    """An allocator that keeps its pages: its name, and the environment that makes a worker use it.

    Training frees and takes the same large blocks at every step. glibc by default gives each back to the system and
    has it faulted in again; kept, a step on a CPU takes half the time (benchmarks/RESULTS.md). tcmalloc does it with
    less memory than glibc told to, so it is used where it is installed.
    """
    if sys.platform != "linux":
        return "the system's", {}
    for name in ("tcmalloc_minimal", "tcmalloc"):
        library = ctypes.util.find_library(name)
        if library:
            return name, {"LD_PRELOAD": library}
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(64 * 2**20)}
    return "glibc, told to keep its pages", settings


def start(run: RunDir, module: str, arguments: Sequence[str] = ()) -> Process:
    """Start `python -m <module> RUN_DIR ARGUMENTS --nonce N` for a run directory.

    The claim is written first, so that a studio that dies right here does not start the same run twice.
    """
    nonce = secrets.token_hex(8)
    write_json(run.claim, {"nonce": nonce, "time": time.time(), "boot_id": boot_id()})
    command = [sys.executable, "-m", module, str(run.path), *arguments, "--nonce", nonce]
    with run.log.open("ab") as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=worker_environment(),
                cwd=run.path,
                close_fds=True,
            )
        except OSError as error:
            run.claim.unlink(missing_ok=True)
            raise Unavailable(f"The worker could not be started: {error}.") from None
    _children[process.pid] = process
    return Process(process.pid, nonce)


def find(run: RunDir) -> Found:
    """Whether the worker of a run directory lives. `claimed`: started a moment ago, not heard of yet."""
    identity = Identity.read(run)
    if identity is not None:
        return "alive" if _is(identity) else "gone"
    claim = read_json(run.claim)
    if claim is None:
        return "never"
    young = time.time() - float(claim.get("time", 0)) < CLAIM_SECONDS and claim.get("boot_id") == boot_id()
    return "claimed" if young else "gone"


def _is(identity: Identity) -> bool:
    """Whether the process with this pid is still the one that wrote its name: all four marks match."""
    if identity.boot_id != boot_id():
        return False
    started = process_started(identity.pid)
    if started is None or abs(started - identity.started) > 1.0:
        return False
    try:
        return identity.nonce in psutil.Process(identity.pid).cmdline()
    except psutil.Error:
        return False


def signal(run: RunDir, number: signals.Signals) -> bool:
    """Send a signal to the worker and everything it started; False when it is not there any more."""
    identity = Identity.read(run)
    if identity is None or not _is(identity):
        return False
    with contextlib.suppress(ProcessLookupError):
        # The worker leads a session of its own, so its pid names its process group.
        os.killpg(identity.pid, number)
        return True
    return False


def reap() -> None:
    """Collect the exit status of workers that this process started and that have ended."""
    for pid, process in list(_children.items()):
        if process.poll() is not None:
            del _children[pid]
