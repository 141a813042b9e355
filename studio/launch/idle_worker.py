"""A spare worker with its imports already done, kept ready for the next run.

Until it is given a run it ends with this process, when its stdin closes. After that it is a worker like any other,
found again by its nonce.
"""

import contextlib
import secrets
import subprocess
import sys
import threading
from pathlib import Path

from studio.launch.environment import worker_environment
from studio.rundir import RunDir, begin_log


class IdleWorker:
    """A process of a module that waits for a run, such as studio.engine.workers.warm."""

    def __init__(self, module: str, log: Path) -> None:
        """Start the process; raises OSError if that fails. log: file for its output before it has a run."""
        self.nonce = secrets.token_hex(8)
        with begin_log(log) as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--nonce", self.nonce],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=worker_environment(),
                close_fds=True,
            )
        self._ready = threading.Event()
        threading.Thread(target=self._hear, name="spare-worker", daemon=True).start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            if self.process.stdout.readline():
                self._ready.set()

    @property
    def ready(self) -> bool:
        """Whether it has finished its imports and waits."""
        return self._ready.is_set() and self.alive

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def hand(self, run: RunDir) -> bool:
        """Make it the worker of a run; False if it has ended, in which case it is cleaned up."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{run.path.resolve()}\n".encode())
            self.process.stdin.close()
        except OSError:
            self.dismiss()
            return False
        return True

    def dismiss(self) -> None:
        """Kill it, and wait until its memory is free."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
