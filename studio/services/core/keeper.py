"""The keeper of a home: opens a studio, looks after its runs in a thread, and closes it again.

It imports the services, not the other way round: they request a look through the Studio object. rounds.py defines what
a look does.
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
_SWEEP = 3600.0  # seconds between two clean-ups of expired visitors and abandoned uploads


class Keeper:
    """Opens a home. As a context manager it returns the studio and closes it; `start` starts the keeper thread."""

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
        # The keeper works for all owners and gets the owner of each thing from its row or file.
        owners.asking.set(owners.LOCAL)
        swept = float("-inf")
        while not self._stopping.wait(studio.settings.keeper_interval):
            self.look_safely()
            # A worker that cannot be closed must not end the keeper.
            with contextlib.suppress(OSError):
                chat.unload_if_idle(studio)
            # Optional, and the look reports faults of the home. Not during a look, which may take the worker.
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
        """Run one look; an error becomes a notice and the next look tries again, so that the keeper never ends."""
        studio = self.studio
        try:
            studio.look()
        except Exception as error:
            if db.is_locked(error):
                studio.notice("keeper", db.locked_words(studio.settings.database))
            else:
                message = f"The studio could not look after its runs: {error}. It will try again."
                repeated = studio.notice("keeper", message)
                # The traceback is logged once: the look is repeated every second.
                level = logging.DEBUG if repeated else logging.ERROR
                _log.log(level, "The keeper could not finish its look.", exc_info=True)
        else:
            studio.notice("keeper", "")
        studio.state(Sending).forget_finished()

    def close(self) -> None:
        """Stop the keeper. Training continues; the chat worker and the warm worker end."""
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
    """Add the sample dataset to a home without datasets, so that a first visit has something to train on.

    In a shared studio, all visitors share it.
    """
    with owners.acting(owners.Visitor(owners.EVERYONE) if studio.for_visitors else owners.LOCAL):
        if studio.keeping and not datasets.list_datasets(studio):
            datasets.add_sample(studio)
