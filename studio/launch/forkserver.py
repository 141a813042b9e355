"""A process that has imported what a kind of work needs and forks for each piece of it, so that none waits for imports.

    python -m studio.launch.forkserver MODULE FD IDLE

Where multiprocessing's own fork server would hand our whole environment on, with what is secret in it, and take the
work's answers as pickles, this one has a worker's environment, and the work prints its lines as if it had been started
by `python -m MODULE`. It ends when whoever started it does, and its forks end with it.

On the socket FD: each message is one piece of work, the arguments of MODULE's `main` as a JSON list of texts, with
three files: where it prints, where it complains, and a socket. On that its end is told (an exit status, or a signal as
a negative number), after a word that it began; whoever writes there or closes it has it killed.
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
_MOST = 1 << 16  # bytes of a message
_BEGAN = b"began"


def possible() -> bool:
    """Elsewhere a process that has used a system library may not be forked, or there is no fork."""
    return sys.platform == "linux"


class Forked:
    """A piece of work at work, with as much of Popen's ways as `studio.launch.short_tasks` asks for."""

    def __init__(self, stdout: IO[str], line: socket.socket) -> None:
        self.stdout = stdout
        self._line = line
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it ended, or None while it goes on."""
        if self._code is None and select.select([self._line], [], [], 0)[0]:
            return self.wait()
        return self._code

    def wait(self) -> int:
        """Wait for its end; a signal is a negative number, as it is for who lost their fork server."""
        if self._code is None:
            told = b""
            with contextlib.suppress(OSError):
                told = self._line.recv(32)
            self._code = int(told) if told else -signal.SIGKILL
            self._line.close()
        return self._code

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._line.send(b"kill")


class ForkServer:
    """The process for one module's work, started when there is some; it may be asked by several threads."""

    def __init__(self, module: str, idle: float = IDLE) -> None:
        """idle: seconds without work after which it ends, until there is some again."""
        self.module, self.idle = module, idle
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: socket.socket | None = None
        self._usable = possible()

    def begin(self, arguments: Sequence[str], errors: IO[bytes]) -> Forked | None:
        """Have a piece of work begun; None where that cannot be done so, and nothing has been begun."""
        tries = 2 if self._usable else 0  # it may just have ended for want of work
        for _ in range(tries):
            asked = self._running()
            with contextlib.suppress(OSError):
                forked = self._ask(asked, arguments, errors)
                if forked is not None:
                    return forked
            with self._lock:
                if self._asked is asked:
                    self._end()
        self._usable = False  # each further try would take as long as the work itself
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
                        start_new_session=True,  # Ctrl-C is for us: it ends with us
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
        """End it, and what it has at work."""
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
    """Fork for each message until the other end of the socket closes, or nothing comes for `idle` seconds."""
    # What runs threads of its own by then (OpenBLAS, jemalloc under pyarrow) has handlers that see it through a fork.
    work: Callable[..., Any] = importlib.import_module(module).main
    gc.freeze()  # what is there stays shared
    asked = socket.socket(fileno=fd)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(awake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the wakeup is written
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
            os.kill(pid, signal.SIGKILL)  # ours until it is waited for
        if awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(awake, 4096)
        _tell_ends(at_work)
        if fd in ready:
            message, files, _, _ = socket.recv_fds(asked, _MOST, 3)
            if not message:
                return  # its forks end with it
            last = time.monotonic()
            _begin(work, json.loads(message), files, at_work, (fd, awake, wake))


def _tell_ends(at_work: dict[int, socket.socket]) -> None:
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
    out, errors, told = files
    line = socket.socket(fileno=told)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        for other in at_work.values():
            other.close()
        line.close()
        for one in ours:
            os.close(one)
        _work(work, arguments, out, errors, parent)
    os.close(out)
    os.close(errors)
    at_work[pid] = line
    with contextlib.suppress(OSError):
        line.send(_BEGAN)


def _work(work: Callable[..., Any], arguments: list[str], out: int, errors: int, parent: int) -> NoReturn:
    """In the fork: as `python -m` would have it, and never back into the loop above."""
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
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1 if left.code else 0
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (prctl with PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
