"""Warm worker: a training worker kept ready while someone fills in the form, because imports dominate start-up time.

The worker is dismissed when the form has not been used for a while, when something else trains, and when memory runs
short. It does not start runs: the keeper does, and takes the worker for one.
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
LEAST_FREE = 3 * 2**30  # bytes of free memory; the worker takes about 0.6 GiB, and a run is to follow
_LOOK = 3.0  # seconds for which a reading of the machine is reused


@dataclass(slots=True)
class WarmWorker:
    """The worker, if there is one, and when it was last requested (time.monotonic)."""

    spare: IdleWorker | None = None
    wanted: float = float("-inf")

    def take(self) -> IdleWorker | None:
        """Hand over the worker to a run that starts now; None unless it is ready."""
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
    """Note that a run may start soon; the keeper makes a worker ready at its next look."""
    studio.state(WarmWorker).wanted = time.monotonic()


def tend(studio: Studio) -> None:
    """For the keeper: keep a worker ready while one is expected, and none otherwise."""
    warm = studio.state(WarmWorker)
    if warm.spare is not None and not warm.spare.alive:
        warm.dismiss()
        warm.wanted = float("-inf")  # the next run starts without a warm worker and reports errors itself
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
