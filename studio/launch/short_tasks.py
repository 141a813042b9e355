"""Short work in a process of its own, which ends with the asker: preparing a model, reading a file.

The child prints JSON lines. Whatever it does to itself (takes too much memory or time, crashes in a library) ends it
alone, and is said in a sentence.
"""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from studio.errors import StudioError
from studio.launch.environment import worker_environment
from studio.launch.forkserver import ForkServer
from studio.rundir import begin_log, tail

_LOG_BYTES = 4_000
PULSE = 0.25  # seconds after which a silent child is told of


class Died(StudioError):
    """A child that ended without its result. timed_out: it was ended at its limit; signal: what ended it, or 0."""

    def __init__(self, message: str, timed_out: bool, signal: int) -> None:
        super().__init__(message)
        self.timed_out, self.signal = timed_out, signal


def follow(
    module: str,
    arguments: Sequence[str],
    log: Path,
    seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
    server: ForkServer | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Run `python -m module` to its end and give the JSON lines it prints; closing the iterator ends the child.

    While the child says nothing, an empty dictionary is given every PULSE seconds, so that the asker can turn away.

    seconds: the most it may take. environment: what it is told beside a worker's usual one. server: forks the child
    where it can, in place of a new interpreter; then there is no environment of its own. Raises Died with its last
    words if it fails.
    """
    late = threading.Event()
    with begin_log(log) as errors:
        forked = server.begin(arguments, errors) if server is not None else None
        process = forked if forked is not None else _started(module, arguments, errors, environment)

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, stop) if seconds else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        assert process.stdout is not None
        for line in _lines(process.stdout):
            if not line:
                yield {}
                continue
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
        code = process.wait()
    finally:
        if timer is not None:
            timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        said = [line for line in tail(log, _LOG_BYTES).splitlines() if line.strip()]
        killed = signal.Signals(-code).name if code < 0 else ""
        words = f"it was ended by {killed}" if killed else said[-1] if said else "it gave no reason"
        raise Died(f"{module} failed: {words}.", late.is_set(), -code if code < 0 else 0)


def _started(
    module: str, arguments: Sequence[str], errors: IO[bytes], environment: Mapping[str, str] | None
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=worker_environment(environment),
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a pipe until it ends, and an empty one whenever PULSE seconds pass without any."""
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with stream:
            for line in stream:
                said.put(line)
        said.put(None)

    # A thread, since not every system reads a pipe with a time limit; it ends with the child, which closes the pipe.
    threading.Thread(target=read, name="child-lines", daemon=True).start()
    while True:
        try:
            line = said.get(timeout=PULSE)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line
