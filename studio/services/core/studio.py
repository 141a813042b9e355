"""The studio as every service is handed it: settings, database, who asks, and what services remember.

It imports no service. The keeper (keeper.py) stands above the services, opens a studio and says what is done at a look.

One keeper per home holds `keeper.lock`: it alone writes the database, starts workers and moves the queue. The server is
the keeper while it lives; a command takes the lock for its moment when it is free, and otherwise leaves its wish in the
home (a run directory, a control file, a dataset folder) and reads along.
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
FILE_READER = "studio.dataset.worker"  # the module that reads files, in a process of its own
T = TypeVar("T")


class Studio:
    """One home, opened. Use Keeper to open one.

    home_owner: who asks where nobody else does. for_visitors: others reach it, so that who asks must be known. keeping:
    whether this studio holds the home's lock. file_reader: the process that reads files.
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
        """The one object of this type that belongs to this studio, made when it is first asked for.

        Services keep here what they must remember between two calls. make: makes it; without it, kind().
        """
        with self._making_state:
            if kind not in self._states:
                self._states[kind] = kind() if make is None else make()
            return cast(T, self._states[kind])

    @property
    def visitor(self) -> Visitor:
        """Who asks now; raises Stranger where that cannot be told."""
        return owners.of(self)

    @property
    def owner(self) -> str:
        """Whose things may be seen and touched now: the one gate that all services ask."""
        return owners.of(self).owner

    def open_to_visitors(self) -> "Studio":
        """From now on nobody is taken for this machine's own person: who asks must be known."""
        self.for_visitors = True
        return self

    @property
    def notices(self) -> list[str]:
        """What a person should know of this home: a database that was damaged, a run that cannot be looked after.

        A visitor is told what is said of their own runs alone.
        """
        notices = dict(self._notices)
        if owners.of(self).admin:
            return list(notices.values())
        return [text for about, text in notices.items() if about == "all" or self._is_own(about)]

    def _is_own(self, about: str) -> bool:
        run = self.run_dir(about)
        return run.about.is_file() and About.read(run).owner == self.owner

    def notice(self, about: str, text: str) -> bool:
        """Say something about one thing, in place of what was said of it before; an empty text takes it back.

        about: the id of a run, `all` for what everybody may know, or anything else for this home's own person. Returns
        whether something was said of it before.
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
        """What is done at each look; said once, by the keeper."""
        self._on_look = action

    def refresh(self) -> None:
        """Take in what the run directories say now. Without the lock, what the keeper took in last is read."""
        if not self.looks_by_itself:
            self.look()

    def look(self) -> None:
        """Look round now, if this studio is the keeper; a database found damaged is built again."""
        if not self.keeping:
            return
        with self._looking:
            if self._in_look:  # what a look asks for is not to look again
                return
            self._in_look = True
            try:
                self._look()
            finally:
                self._in_look = False

    @contextlib.contextmanager
    def between_looks(self) -> Any:
        """Within, no look is under way."""
        with self._looking:
            yield

    def take_in(self, run_id: str) -> None:
        """Take in what a run's journal has new, unless a look is under way, which does it."""
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
        """Begin an empty database; the look that follows fills it from the run directories."""
        self.database.renew()
        self._report_damage()

    def _report_damage(self) -> None:
        database = self.database
        if database.set_aside is not None:
            self.notice(
                "database",
                f"The database was damaged ({database.why}) and has been built again from the run directories; no run "
                f"and no point is lost. The damaged file is kept as {database.set_aside.name}.",
            )

    def close(self) -> None:
        """Close the database and give the home's lock back."""
        self.file_reader.close()
        self.database.close()
        self.unlock()

    def unlock(self) -> None:
        """Give the home's lock back, so that another studio may keep it."""
        self._lock.release()
