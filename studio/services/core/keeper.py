"""The keeper of a home: opens a studio, looks after its runs in a thread, and closes it again.

It stands above all services; they ask it for a look through the studio they are handed. What a look does is in
rounds.py.
"""

import contextlib
import logging
import threading
import time
from types import TracebackType
from typing import Self

from studio.errors import Unavailable
from studio.services.chat import chat
from studio.services.core import identity as owners
from studio.services.core import rounds
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets
from studio.services.host import expiry, usage, warm
from studio.services.host.warm import WarmWorker
from studio.services.runs import logs, trash, webhook
from studio.services.runs.webhook import Sending
from studio.settings import Settings
from studio.store import db

_log = logging.getLogger(__name__)
_SWEEP = 3600.0  # seconds between two looks for what strangers left, and what nobody came back for


class Keeper:
    """Opens a home. As a context manager it gives the studio and closes it; `start` begins the keeper's thread."""

    def __init__(self, settings: Settings, owner: str = "local") -> None:
        webhook.check(settings.webhook_url)
        self.studio = studio = Studio(settings, owner)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        studio.on_look(lambda: rounds.look_round(studio))
        if studio.keeping:
            try:
                checks.clean_up(studio)
                trash.finish(studio)
                studio.look()
            except BaseException:
                studio.unlock()
                raise

    def start(self) -> Self:
        """Look after runs in the background from now on; raises Unavailable when another studio keeps this home."""
        if not self.studio.keeping:
            raise Unavailable(
                f"Another studio is already looking after {self.studio.settings.home}. "
                "Use that one, stop it, or start this one with another --home."
            )
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()
        self.studio.looks_by_itself = True
        return self

    def _keep(self) -> None:
        studio = self.studio
        # The keeper works for all owners; what it asks of one, it asks by their rows and files.
        owners.asking.set(owners.LOCAL)
        swept = float("-inf")
        while not self._stopping.wait(studio.settings.keeper_interval):
            self.look_safely()
            # A worker that cannot be closed must not end the keeping of runs.
            with contextlib.suppress(OSError):
                chat.unload_if_idle(studio)
            # A convenience: what is wrong with home or database, the look has said. A look may take the worker.
            with contextlib.suppress(Exception), studio.between_looks():
                warm.tend(studio)
            with contextlib.suppress(OSError):
                usage.sample_if_due(studio)
            with contextlib.suppress(OSError):
                logs.look(studio)
            if time.monotonic() > swept + _SWEEP:
                swept = time.monotonic()
                with contextlib.suppress(OSError):
                    checks.clean_up(studio)
                    if studio.for_visitors:
                        expiry.sweep(studio)

    def look_safely(self) -> None:
        """Have the studio look round; what goes wrong is said and tried again at the next look, so that keeping never
        ends."""
        studio = self.studio
        try:
            studio.look()
        except Exception as error:
            if db.is_locked(error):
                studio.notice("keeper", db.locked_words(studio.settings.database))
            else:
                words = f"The studio could not look after its runs: {error}. It tries again."
                known = studio.notice("keeper", words)
                # Once with where it happened; it is tried again every moment.
                level = logging.DEBUG if known else logging.ERROR
                _log.log(level, "The keeper could not finish its look.", exc_info=True)
        else:
            studio.notice("keeper", "")
        studio.state(Sending).forget_finished()

    def close(self) -> None:
        """Stop keeping. Training goes on; the chat worker and one that waits end."""
        studio = self.studio
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        studio.state(Sending).finish()
        chat.close(studio)
        studio.state(WarmWorker).dismiss()
        studio.close()

    def __enter__(self) -> Studio:
        return self.studio

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
