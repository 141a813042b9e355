"""Fork server: a process with the imports of a module already done, which forks for each task to save import time.

    python -m studio.launch.forkserver MODULE FD IDLE

multiprocessing's fork server would pass on our whole environment, including secrets, and receive results as pickles.
This one has a worker's environment, and a task prints its lines as if started by `python -m MODULE`. It ends when the
process that started it ends, and its forks end with it.

On the socket FD, each message is one task: the arguments of MODULE's `main` as a JSON list of strings, with three file
descriptors: stdout, stderr and a socket. On that socket the server sends `began` and, at the end, the exit status (a
signal as a negative number); writing to it or closing it kills the task.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn

from studio.launch.environment import worker_environment

IDLE = 600.0
_MOST = 1 << 16  # maximum bytes of a message
_BEGAN = b"began"


def possible() -> bool:
    """Whether forking is supported: elsewhere system libraries do not allow it, or there is no fork."""
    return sys.platform == "linux"


class Forked:
    """A running task, with the part of Popen's interface that `studio.launch.short_tasks` uses."""

    def __init__(self, stdout: IO[str], line: socket.socket) -> None:
        self.stdout = stdout
        self._line = line
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        if self._code is None and select.select([self._line], [], [], 0)[0]:
            return self.wait()
        return self._code

    def wait(self) -> int:
        """Wait for its exit status; a signal is a negative number, -SIGKILL if the fork server is gone."""
        if self._code is None:
            status = b""
            with contextlib.suppress(OSError):
                status = self._line.recv(32)
            self._code = int(status) if status else -signal.SIGKILL
            self._line.close()
        return self._code

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._line.send(b"kill")


class ForkServer:
    """Client of the fork server of one module, which is started on demand. Thread-safe."""

    def __init__(self, module: str, idle: float = IDLE) -> None:
        """idle: seconds without tasks after which the server ends, until there is a task again."""
        self.module, self.idle = module, idle
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: socket.socket | None = None
        self._usable = possible()

    def begin(self, arguments: Sequence[str], errors: IO[bytes]) -> Forked | None:
        """Start a task; None if that is not possible, in which case nothing was started."""
        tries = 2 if self._usable else 0  # it may just have ended because it was idle
        for _ in range(tries):
            asked = self._running()
            with contextlib.suppress(OSError):
                forked = self._ask(asked, arguments, errors)
                if forked is not None:
                    return forked
            with self._lock:
                if self._asked is asked:
                    self._end()
        self._usable = False  # further attempts would take as long as the task itself
        return None

    def _running(self) -> socket.socket:
        with self._lock:
            if self._asked is None or self._process is None or self._process.poll() is not None:
                self._end()
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", __name__, self.module, str(theirs.fileno()), str(self.idle)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=worker_environment(),
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,  # Ctrl-C goes only to us; the server ends with us
                    )
                self._asked = ours
            return self._asked

    def _ask(self, asked: socket.socket, arguments: Sequence[str], errors: IO[bytes]) -> Forked | None:
        out, into = os.pipe()
        line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        try:
            with theirs:
                files = [into, errors.fileno(), theirs.fileno()]
                socket.send_fds(asked, [json.dumps(list(arguments)).encode()], files)
        except OSError:
            line.close()
            stdout.close()
            raise
        finally:
            os.close(into)
        if line.recv(32) == _BEGAN:
            return Forked(stdout, line)
        line.close()
        stdout.close()
        return None

    def close(self) -> None:
        """End the server and its running tasks."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._asked is not None:
            self._asked.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._asked = self._process = None


def main(module: str, fd: int, idle: float) -> None:
    """Fork for each message until the other end of the socket closes, or none arrives for `idle` seconds."""
    # Libraries that run threads by now (OpenBLAS, jemalloc in pyarrow) have handlers that make forking safe.
    work: Callable[..., Any] = importlib.import_module(module).main
    gc.freeze()  # keeps existing objects on shared pages
    asked = socket.socket(fileno=fd)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(awake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler is needed for the wakeup to be written
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    at_work: dict[int, socket.socket] = {}
    last = time.monotonic()
    while True:
        lines = {line.fileno(): pid for pid, line in at_work.items()}
        rest = None if at_work else max(0.0, last + idle - time.monotonic())
        ready = select.select([fd, awake, *lines], [], [], rest)[0]
        if not ready and not at_work:
            return
        for pid in (lines[line] for line in ready if line in lines):
            os.kill(pid, signal.SIGKILL)  # the pid cannot be reused until it is waited for
        if awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(awake, 4096)
        _report_ends(at_work)
        if fd in ready:
            message, files, _, _ = socket.recv_fds(asked, _MOST, 3)
            if not message:
                return  # its forks end with it
            last = time.monotonic()
            _begin(work, json.loads(message), files, at_work, (fd, awake, wake))


def _report_ends(at_work: dict[int, socket.socket]) -> None:
    while at_work:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        line = at_work.pop(pid)
        with contextlib.suppress(OSError):
            line.send(str(os.waitstatus_to_exitcode(status)).encode())
        line.close()


def _begin(
    work: Callable[..., Any],
    arguments: list[str],
    files: list[int],
    at_work: dict[int, socket.socket],
    ours: tuple[int, ...],
) -> None:
    out, errors, status = files
    line = socket.socket(fileno=status)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        for other in at_work.values():
            other.close()
        line.close()
        for descriptor in ours:
            os.close(descriptor)
        _work(work, arguments, out, errors, parent)
    os.close(out)
    os.close(errors)
    at_work[pid] = line
    with contextlib.suppress(OSError):
        line.send(_BEGAN)


def _work(work: Callable[..., Any], arguments: list[str], out: int, errors: int, parent: int) -> NoReturn:
    """Run a task in the fork as `python -m` would, and exit without returning to the loop above."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with_parent(parent)
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.close(out)
        os.close(errors)
        code = int(work(*arguments) or 0)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (prctl with PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
