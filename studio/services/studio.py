"""One studio: its settings, its database and, if it holds the home's lock, its keeper.

One keeper per home holds `keeper.lock`: it alone writes the database, starts workers and moves the queue. The
server is the keeper while it lives; a command takes the lock for its moment when it is free, and otherwise leaves
its wish in the home (a run directory, a control file, a dataset folder) and reads along.
"""

import contextlib
import threading
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from studio.errors import Unavailable
from studio.rundir import RunDir
from studio.services import chat, checks, datasets, keeper
from studio.settings import Settings
from studio.store.db import Database, open_reader


class Studio:
    """What every service is handed. Use as a context manager; `keep` starts the keeper's thread."""

    def __init__(self, settings: Settings, owner: str = "local") -> None:
        self.settings = settings.prepare()
        self.owner = owner
        self._lock = FileLock(settings.keeper_lock, thread_local=False)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        with contextlib.suppress(Timeout):
            self._lock.acquire(timeout=0)
        self.keeping = self._lock.is_locked
        self.database = Database(settings.database) if self.keeping else open_reader(settings.database)
        if self.keeping:
            checks.clean_up(self)
            keeper.look_round(self)

    def keep(self) -> Self:
        """Start looking after runs in the background; raises Unavailable when another studio keeps this home."""
        if not self.keeping:
            raise Unavailable(
                f"Another studio is already looking after {self.settings.home}. "
                "Use that one, stop it, or start this one with another --home."
            )
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()
        return self

    def refresh(self) -> None:
        """Take in what the run directories say now. Without the lock, what the keeper took in last is read."""
        if self.keeping and self._thread is None:
            keeper.look_round(self)

    def run_dir(self, run_id: str) -> RunDir:
        return RunDir(self.settings.runs / run_id)

    def _keep(self) -> None:
        while not self._stopping.wait(self.settings.keeper_interval):
            keeper.look_round_safely(self)
            # A worker that cannot be closed must not end the keeping of runs.
            with contextlib.suppress(OSError):
                chat.unload_if_idle(self)

    def close(self) -> None:
        """Stop keeping. Training goes on; the chat worker ends."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        chat.close(self)
        self.database.close()
        if self.keeping:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def welcome(studio: Studio) -> None:
    """A home without datasets gets the sample, so that the first visit has something to train."""
    if studio.keeping and not datasets.list_datasets(studio):
        datasets.add_sample(studio)
