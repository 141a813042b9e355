"""Chat worker process: the only kind of worker that ends with its studio.

Exchanges JSON lines on stdin and stdout and exits when stdin closes, so its memory is freed when the studio dies.
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studio.errors import Unavailable
from studio.launch.environment import worker_environment
from studio.rundir import begin_log, tail

_LOG_BYTES = 4_000


class ChatProcess:
    """A worker that answers messages. Replies are in order of arrival; one conversation at a time."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        # A fresh log: the output of an earlier worker must not be reported as this one's last line.
        with begin_log(log) as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=worker_environment(),
                close_fds=True,
            )
        self._replies: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="chat-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, message: dict[str, Any]) -> None:
        """Send one message; raises Unavailable when the worker is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError, OSError):
            raise Unavailable(f"The chat worker ended. {self._last_words()}") from None

    def replies(self, timeout: float) -> Iterator[dict[str, Any]]:
        """Yield replies as they arrive; raises Unavailable when the worker ends or is silent for `timeout` seconds."""
        while True:
            try:
                reply = self._replies.get(timeout=timeout)
            except queue.Empty:
                raise Unavailable(f"The chat worker did not reply for {timeout:.0f} seconds.") from None
            if reply is None:
                raise Unavailable(f"The chat worker ended. {self._last_words()}")
            yield reply

    def close(self, grace: float = 5.0) -> None:
        """Close its stdin, and kill it if it does not exit within `grace` seconds."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._replies.put(json.loads(line))
        self._replies.put(None)

    def _last_words(self) -> str:
        try:
            lines = [line for line in tail(self._log, _LOG_BYTES).splitlines() if line.strip()]
        except OSError:
            lines = []
        return f"Its last line of output: {lines[-1][:300]}" if lines else "It left no message."
