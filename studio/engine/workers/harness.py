"""Worker harness: lock, identity, heartbeat, exit record.

Takes the lock of the run directory, writes worker.json before any heavy import, keeps the heartbeat, treats SIGTERM as
a request to stop, and records the end: the final journal event first, then exit.json.

It starts no processes and imports no torch.
"""

import argparse
import contextlib
import errno
import os
import platform
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from studio.errors import StudioError
from studio.redaction import guard_logs, strike
from studio.rundir import (
    DISK_FULL_STATUS,
    Beat,
    Cause,
    Control,
    Exit,
    FinalState,
    Identity,
    Journal,
    RunDir,
    boot_id,
    process_started,
    resident_bytes,
)

HEARTBEAT_SECONDS = 2.0
PROGRESS_SECONDS = 0.5  # at most one progress event per interval: a million rows must not fill the journal
ALREADY_WORKED_ON = 3
USUAL_CAUSES: dict[FinalState, Cause] = {"completed": "finished", "stopped": "stopped", "failed": "error"}
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers")


class Ended(Exception):
    """Raised to end the work at once with this exit: a requested stop, or a failure with a remedy."""

    def __init__(self, how: Exit) -> None:
        super().__init__(how.message)
        self.how = how


def say(text: str) -> None:
    """Write a line to the log. On a full disk the line is lost, which must not end the work."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


@dataclass
class Worker:
    """What the harness gives the work: run directory, journal, progress reports and requests to stop."""

    run: RunDir
    journal: Journal
    identity: Identity
    step: int = 0
    progressed: float = field(default_factory=time.time)
    terminated: bool = False
    _journalled: float = 0.0

    def phase(self, what: str) -> None:
        """Write to log and journal that this phase begins."""
        say(f"{what} …")
        self.progress(what)

    def progress(self, what: str, done: int = 0, of: int = 0) -> None:
        """Journal the progress of `what`, at most twice a second; its start and end are always written."""
        self.progressed = now = time.time()
        if 0 < done < of and now - self._journalled < PROGRESS_SECONDS:
            return
        self._journalled = now
        self.journal.write("progress", what=what, done=done, of=of)

    def note(self, level: str, text: str) -> None:
        """Write a note to log and journal; level is info or warning."""
        say(f"{level}: {text}")
        self.journal.write("note", level=level, text=text)

    def state(self, state: str, message: str = "") -> None:
        say(f"[{state}] {message}".rstrip())
        self.journal.write("state", state=state, message=message)

    def over(self, how: Exit) -> None:
        """Record the end: in the journal first, then in exit.json."""
        say(f"[{how.state}] {how.message}")
        self.journal.write("state", sync=True, state=how.state, message=how.message, cause=how.cause)
        how.write(self.run)

    def progressed_now(self) -> None:
        """Record that the work is making progress."""
        self.progressed = time.time()

    def reached(self, step: int) -> None:
        """Record a finished optimizer step."""
        self.step, self.progressed = step, time.time()

    def wished(self, what: Control) -> bool:
        """Consume a request from the control folder. SIGTERM counts as a stop, and is also consumed once."""
        taken = self.run.consume(what)
        if what == "stop" and self.terminated:
            self.terminated, taken = False, True
        return taken

    def leave_if_asked(self, message: str) -> None:
        """End the work between two phases if a stop or cancel was requested."""
        cause: Cause = "cancelled" if self.wished("cancel") else "stopped" if self.wished("stop") else ""
        if cause:
            self.state("stopping")
            raise Ended(Exit("stopped", message, cause=cause))

    def identify(self, device: str) -> None:
        """Add the device to worker.json, once it is known."""
        self.identity = replace(self.identity, device=device)
        self.identity.write(self.run)


def library_versions() -> dict[str, str]:
    """Versions of Python and the computing libraries, read without importing them."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def serve(description: str, body: Callable[[Worker], Exit], argv: list[str] | None = None) -> int:
    """Run `body` as the worker of the directory on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nonce", required=True, help="set by the launcher to identify this worker later")
    options = parser.parse_args(argv)
    guard_logs()
    run = RunDir(options.directory.resolve())
    if not run.path.is_dir():
        print(f"There is no directory {run.path}.", file=sys.stderr)
        return 2
    lock = FileLock(run.worker_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another worker is already running in this directory.", file=sys.stderr)
        return ALREADY_WORKED_ON
    with lock:
        try:
            return _work(run, options.nonce, body)
        except OSError as error:
            if not _disk_full(error):
                raise
            return DISK_FULL_STATUS


def _work(run: RunDir, nonce: str, body: Callable[[Worker], Exit]) -> int:
    pid = os.getpid()
    identity = Identity(
        pid, process_started(pid) or time.time(), boot_id(), nonce, socket.gethostname(), versions=library_versions()
    )
    identity.write(run)
    with Journal(run.events) as journal:
        worker = Worker(run, journal, identity)
        _stop_on_sigterm(worker)
        worker.state("starting")
        with _heartbeat(worker):
            how = attempt(worker, body)
        worker.over(how)
    return 0 if how.state != "failed" else 1


def attempt(worker: Worker, body: Callable[[Worker], Exit]) -> Exit:
    """Run the work; every exit gets a cause."""
    try:
        how = body(worker)
    except Ended as end:
        how = end.how
    except StudioError as error:
        how = Exit("failed", str(error))
    except Exception as error:
        text = strike(traceback.format_exc())
        say(text)
        how = _explain(error, text)
    return how if how.cause else replace(how, cause=USUAL_CAUSES[how.state])


def _explain(error: BaseException, text: str) -> Exit:
    """Describe an unexpected error as an exit with a message and a remedy."""
    if out_of_memory(error):
        return Exit(
            "failed",
            "The device does not have enough memory for this run.",
            "Use a smaller per_device_train_batch_size (with more gradient_accumulation_steps), a smaller max_length, "
            "quantization nf4, or turn on gradient_checkpointing.",
            traceback=text,
            cause="memory",
        )
    if _disk_full(error):
        return Exit(
            "failed", "The disk is full.", "Free some space, then resume the run.", traceback=text, cause="disk"
        )
    first = strike((str(error).splitlines() or [""])[0])
    return Exit(
        "failed",
        f"The work stopped with an error: {type(error).__name__}: {first}",
        "See the log for the traceback.",
        traceback=text,
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the device or the machine ran out of memory."""
    # Matched by name and text: torch is not imported here, and its CPU allocator raises a plain RuntimeError.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def _disk_full(error: BaseException) -> bool:
    # safetensors reports the system's error only as text.
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        type(error).__name__ == "SafetensorError" and "No space left" in str(error)
    )


def _stop_on_sigterm(worker: Worker) -> None:
    def remember(_number: int, _frame: object) -> None:
        worker.terminated = True

    signal.signal(signal.SIGTERM, remember)


@contextlib.contextmanager
def _heartbeat(worker: Worker) -> Iterator[None]:
    """Write the heartbeat in a separate thread, so that a step of several minutes does not look dead."""
    over = threading.Event()

    def beat() -> None:
        while True:
            # A full disk must not kill the thread; the work itself reports it.
            with contextlib.suppress(OSError):
                Beat(time.time(), worker.progressed, worker.step, resident_bytes()).write(worker.run)
            if over.wait(HEARTBEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(HEARTBEAT_SECONDS)
