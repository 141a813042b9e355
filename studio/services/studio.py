"""One studio: its settings, its database and, if it holds the home's lock, its keeper.

One keeper per home holds `keeper.lock`: it alone writes the database, starts workers and moves the queue. The
server is the keeper while it lives; a command takes the lock for its moment when it is free, and otherwise leaves
its wish in the home (a run directory, a control file, a dataset folder) and reads along.
"""

import contextlib
import logging
import threading
import time
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from studio.errors import Unavailable
from studio.launch.forkserver import ForkServer
from studio.rundir import About, RunDir
from studio.services import chat, checks, datasets, keeper, logs, sweeping, trash, usage, warm, webhook
from studio.services import owner as owners
from studio.services.owner import Visitor
from studio.services.room import Room
from studio.services.warm import Warm
from studio.settings import Settings
from studio.store import db, ingest
from studio.store.db import Database, open_reader

_log = logging.getLogger(__name__)
_SWEEP = 3600.0  # seconds between two looks for what strangers left, and what nobody came back for


class Studio:
    """What every service is handed. Use as a context manager; `keep` starts the keeper's thread.

    home_owner: who asks where nobody else does. for_visitors: others reach it, so that who asks must be known.
    """

    def __init__(self, settings: Settings, owner: str = "local") -> None:
        webhook.check(settings.webhook_url)
        self.settings = settings.prepare()
        self.home_owner = owner
        self.for_visitors = False
        self.chat = Room()
        self.warm = Warm()
        self.reading = ForkServer(checks.READING)
        self.logs = logs.Round()
        self.sending: list[threading.Thread] = []
        self._notices: dict[str, str] = {}
        self._looking = threading.RLock()
        self._in_look = False
        self._lock = FileLock(settings.keeper_lock, thread_local=False)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        with contextlib.suppress(Timeout):
            self._lock.acquire(timeout=0)
        self.keeping = self._lock.is_locked
        try:
            self.database = Database(settings.database) if self.keeping else open_reader(settings.database)
            if self.keeping:
                self._say_what_was_set_aside()
                checks.clean_up(self)
                trash.finish(self)
                self.look()
        except BaseException:
            self._lock.release()
            raise

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

    @property
    def visitor(self) -> Visitor:
        """Who asks now; raises Stranger where that cannot be told."""
        return owners.of(self)

    @property
    def owner(self) -> str:
        """Whose things may be seen and touched now: the one gate that all services ask."""
        return owners.of(self).owner

    def open_to_visitors(self) -> Self:
        """From now on nobody is taken for this machine's own person: who asks must be known."""
        self.for_visitors = True
        return self

    @property
    def notices(self) -> list[str]:
        """What a person should know of this home: a database that was damaged, a run that cannot be looked after.

        A visitor is told what is said of their own runs alone.
        """
        said = dict(self._notices)
        if owners.of(self).admin:
            return list(said.values())
        return [text for about, text in said.items() if about == "all" or self._is_own(about)]

    def _is_own(self, about: str) -> bool:
        run = self.run_dir(about)
        return run.about.is_file() and About.read(run).owner == self.owner

    def notice(self, about: str, text: str) -> None:
        """Say something about one thing, in place of what was said of it before; nothing takes it back.

        about: the id of a run, `all` for what everybody may know, or anything else for this home's own person.
        """
        if not text:
            self._notices.pop(about, None)
        elif self._notices.get(about) != text:
            self._notices[about] = text
            _log.warning("%s", text)

    def refresh(self) -> None:
        """Take in what the run directories say now. Without the lock, what the keeper took in last is read."""
        if self._thread is None:
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
            keeper.look_round(self)
        except Exception:
            if not self.database.lost():
                raise
            self._renew()
            keeper.look_round(self)

    def _renew(self) -> None:
        """Begin an empty database; the look that follows fills it from the run directories."""
        self.database.renew()
        self._say_what_was_set_aside()

    def _say_what_was_set_aside(self) -> None:
        database = self.database
        if database.set_aside is not None:
            self.notice(
                "database",
                f"The database was damaged ({database.why}) and has been built again from the run directories; no run "
                f"and no point is lost. The damaged file is kept as {database.set_aside.name}.",
            )

    def run_dir(self, run_id: str) -> RunDir:
        return RunDir(self.settings.runs / run_id)

    def _keep(self) -> None:
        # The keeper works for all owners; what it asks of one, it asks by their rows and files.
        owners.asking.set(owners.LOCAL)
        swept = float("-inf")
        while not self._stopping.wait(self.settings.keeper_interval):
            self._look_safely()
            # A worker that cannot be closed must not end the keeping of runs.
            with contextlib.suppress(OSError):
                chat.unload_if_idle(self)
            # A convenience: what is wrong with home or database, the look has said. A look may take the worker.
            with contextlib.suppress(Exception), self._looking:
                warm.tend(self)
            with contextlib.suppress(OSError):
                usage.sample_if_due(self)
            with contextlib.suppress(OSError):
                logs.look(self)
            if time.monotonic() > swept + _SWEEP:
                swept = time.monotonic()
                with contextlib.suppress(OSError):
                    checks.clean_up(self)
                    if self.for_visitors:
                        sweeping.sweep(self)

    def _look_safely(self) -> None:
        """As look; what goes wrong is said and tried again at the next look, so that keeping never ends."""
        try:
            self.look()
        except Exception as error:
            known = "keeper" in self._notices
            if db.is_locked(error):
                self.notice("keeper", db.locked_words(self.settings.database))
            else:
                self.notice("keeper", f"The studio could not look after its runs: {error}. It tries again.")
                # Once with where it happened; it is tried again every moment.
                _log.log(
                    logging.DEBUG if known else logging.ERROR, "The keeper could not finish its look.", exc_info=True
                )
        else:
            self.notice("keeper", "")
        self.sending = [thread for thread in self.sending if thread.is_alive()]

    def close(self) -> None:
        """Stop keeping. Training goes on; the chat worker and one that waits end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for thread in self.sending:
            thread.join()
        chat.close(self)
        self.warm.dismiss()
        self.reading.close()
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
    """A home without datasets gets the sample, so that the first visit has something to train; of a studio that others
    reach, all visitors share it."""
    with owners.acting(owners.Visitor(owners.EVERYONE) if studio.for_visitors else owners.LOCAL):
        if studio.keeping and not datasets.list_datasets(studio):
            datasets.add_sample(studio)
