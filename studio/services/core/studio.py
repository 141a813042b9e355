"""The Studio object that every service receives: settings, database, current visitor and the state of services.

It imports no service. The keeper (keeper.py) imports the services, opens a studio and defines what happens at a look.

One keeper per home holds `keeper.lock`: only the keeper writes the database, starts workers and moves the queue. The
server is the keeper while it lives. A command takes the lock while it runs if the lock is free; otherwise it leaves its
request in the home (a run directory, a control file, a dataset folder) and only reads.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from filelock import FileLock, Timeout

from studio.launch.forkserver import ForkServer
from studio.rundir import About, RunDir
from studio.services.core import identity as owners
from studio.services.core.identity import Visitor
from studio.settings import Settings
from studio.store import ingest
from studio.store.db import Database, open_reader

_log = logging.getLogger(__name__)
FILE_READER = "studio.dataset.worker"  # the module that reads uploaded files, in a separate process
T = TypeVar("T")


class Studio:
    """One open home. Use Keeper to open it.

    home_owner: the owner of calls without a visitor. for_visitors: the studio is shared, so every call needs a visitor.
    keeping: whether this studio holds the home's lock. file_reader: the process that reads files.
    """

    def __init__(self, settings: Settings, owner: str = "local") -> None:
        """Open the home, creating it if need be, and take its lock if it is free."""
        self.settings = settings.prepare()
        self.home_owner = owner
        self.for_visitors = False
        self.file_reader = ForkServer(FILE_READER)
        self.looks_by_itself = False
        self._on_look: Callable[[], None] = lambda: None
        self._states: dict[type, Any] = {}
        self._making_state = threading.Lock()
        self._notices: dict[str, str] = {}
        self._looking = threading.RLock()
        self._in_look = False
        self._lock = FileLock(settings.keeper_lock, thread_local=False)
        with contextlib.suppress(Timeout):
            self._lock.acquire(timeout=0)
        self.keeping = self._lock.is_locked
        try:
            self.database = Database(settings.database) if self.keeping else open_reader(settings.database)
            if self.keeping:
                self._report_damage()
        except BaseException:
            self._lock.release()
            raise

    def state(self, kind: type[T], make: Callable[[], T] | None = None) -> T:
        """The single object of this type that belongs to this studio, created on first use.

        Services keep state between two calls here. make: creates the object; kind() by default.
        """
        with self._making_state:
            if kind not in self._states:
                self._states[kind] = kind() if make is None else make()
            return cast(T, self._states[kind])

    @property
    def visitor(self) -> Visitor:
        """The visitor of the current call; raises UnknownVisitor where there is none."""
        return owners.of(self)

    @property
    def owner(self) -> str:
        """The owner whose data the current call may read and change: the single check of all services."""
        return owners.of(self).owner

    def open_to_visitors(self) -> "Studio":
        """Make this a shared studio: from now on every call needs a visitor."""
        self.for_visitors = True
        return self

    @property
    def notices(self) -> list[str]:
        """Messages about this home: a database that was damaged, a run that cannot be updated.

        A visitor gets only the messages for everyone and about their own runs.
        """
        notices = dict(self._notices)
        if owners.of(self).admin:
            return list(notices.values())
        return [text for about, text in notices.items() if about == "all" or self._is_own(about)]

    def _is_own(self, about: str) -> bool:
        run = self.run_dir(about)
        return run.about.is_file() and About.read(run).owner == self.owner

    def notice(self, about: str, text: str) -> bool:
        """Set the notice about one subject, replacing the previous one; an empty text removes it.

        about: the id of a run, `all` for a notice to everyone, or any other key for the owner of the home. Returns
        whether there was a notice about it before.
        """
        before = self._notices.get(about)
        if not text:
            self._notices.pop(about, None)
        elif before != text:
            self._notices[about] = text
            _log.warning("%s", text)
        return before is not None

    def run_dir(self, run_id: str) -> RunDir:
        return RunDir(self.settings.runs / run_id)

    def on_look(self, action: Callable[[], None]) -> None:
        """Set what happens at each look; called once, by the keeper."""
        self._on_look = action

    def refresh(self) -> None:
        """Update the database from the run directories. Without the lock, the keeper's last update is used."""
        if not self.looks_by_itself:
            self.look()

    def look(self) -> None:
        """Run a look now, if this studio is the keeper; a damaged database is rebuilt."""
        if not self.keeping:
            return
        with self._looking:
            if self._in_look:  # a look must not start another one
                return
            self._in_look = True
            try:
                self._look()
            finally:
                self._in_look = False

    @contextlib.contextmanager
    def between_looks(self) -> Any:
        """Context in which no look is under way."""
        with self._looking:
            yield

    def take_in(self, run_id: str) -> None:
        """Ingest new lines of a run's journal, unless a look is under way, which does so itself."""
        if self.keeping and self._looking.acquire(blocking=False):
            try:
                ingest.ingest(self.database, self.run_dir(run_id))
            finally:
                self._looking.release()

    def _look(self) -> None:
        if self.database.lost():
            self._renew()
        try:
            self._on_look()
        except Exception:
            if not self.database.lost():
                raise
            self._renew()
            self._on_look()

    def _renew(self) -> None:
        """Start with an empty database; the next look fills it from the run directories."""
        self.database.renew()
        self._report_damage()

    def _report_damage(self) -> None:
        database = self.database
        if database.set_aside is not None:
            self.notice(
                "database",
                f"The database was damaged ({database.why}) and has been rebuilt from the run directories; no run "
                f"and no point is lost. The damaged file is kept as {database.set_aside.name}.",
            )

    def close(self) -> None:
        """Close the database and release the home's lock."""
        self.file_reader.close()
        self.database.close()
        self.unlock()

    def unlock(self) -> None:
        """Release the home's lock, so that another studio can become the keeper."""
        self._lock.release()
