"""A training worker kept ready while someone is about to train: its imports take longer than the rest of a start.

Whoever fills in the form is about to. The worker is let go when nobody has for a while, when something else trains,
and when memory runs short. What it does not do: start runs (the keeper does, and takes it then).
"""

import logging
import time
from dataclasses import dataclass

from studio.launch.idle_worker import IdleWorker
from studio.services.core.studio import Studio
from studio.services.host import machine
from studio.services.runs import logs
from studio.store import runs as rows

_log = logging.getLogger(__name__)
_MODULE = "studio.engine.workers.warm"
LEAST_FREE = 3 * 2**30  # bytes of memory; it takes some 0.6 GiB, and a run is to come
_LOOK = 3.0  # seconds for which the machine is taken to be as it was


@dataclass(slots=True)
class WarmWorker:
    """The worker, if there is one, and when it was last wanted (time.monotonic)."""

    spare: IdleWorker | None = None
    wanted: float = float("-inf")

    def take(self) -> IdleWorker | None:
        """The worker for a run that begins now: ready, and no longer kept here."""
        spare, self.spare = self.spare, None
        if spare is not None and not spare.ready:
            spare.dismiss()
            return None
        return spare

    def dismiss(self) -> None:
        if self.spare is not None:
            self.spare.dismiss()
            self.spare = None


def expect(studio: Studio) -> None:
    """Someone may start a run soon. The keeper sees to it at its next look."""
    studio.state(WarmWorker).wanted = time.monotonic()


def tend(studio: Studio) -> None:
    """For the keeper: have a worker ready while it is wanted, and none otherwise."""
    warm = studio.state(WarmWorker)
    if warm.spare is not None and not warm.spare.alive:
        warm.dismiss()
        warm.wanted = float("-inf")  # a start is tried, and told of, without one
    if time.monotonic() - warm.wanted > studio.settings.warm_seconds or not _room(studio):
        warm.dismiss()
    elif warm.spare is None:
        try:
            warm.spare = IdleWorker(_MODULE, logs.warm_log(studio))
        except OSError as error:
            warm.wanted = float("-inf")
            _log.info("No worker could be made ready: %s", error)


def _room(studio: Studio) -> bool:
    now = machine.lately(studio, _LOOK)
    busy = any(row.state != "queued" for row in rows.unfinished(studio.database))
    return not busy and now.memory_total - now.memory_used > LEAST_FREE
