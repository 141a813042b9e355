"""Short tasks in a child process that ends with the caller: preparing a model, reading a file.

The child prints JSON lines. If it uses too much memory or time, or crashes in a library, only the child ends, and the
caller gets an error with a sentence.
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
PULSE = 0.25  # seconds of silence after which an empty value is yielded


class Died(StudioError):
    """A child that ended without a result. timed_out: whether it exceeded its time; signal: what ended it, or 0."""

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
    """Run `python -m module` to its end and yield the JSON lines it prints; closing the iterator ends the child.

    While the child prints nothing, an empty dictionary is yielded every PULSE seconds, so that the caller can stop.

    seconds: time limit. environment: variables in addition to a worker's usual ones. server: fork server to use, if
    possible, instead of a new interpreter; `environment` is then ignored. Raises Died with the last line of output if
    the child fails.
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
        output = [line for line in tail(log, _LOG_BYTES).splitlines() if line.strip()]
        killed = signal.Signals(-code).name if code < 0 else ""
        reason = f"it was ended by {killed}" if killed else output[-1] if output else "it gave no reason"
        raise Died(f"{module} failed: {reason}.", late.is_set(), -code if code < 0 else 0)


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
    """Yield the lines of a pipe until it ends, and an empty one whenever PULSE seconds pass without any."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    # A thread, since not every system reads a pipe with a time limit; it ends with the child, which closes the pipe.
    threading.Thread(target=read, name="child-lines", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=PULSE)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line
