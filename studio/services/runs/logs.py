"""No log grows without end: of one that is too long its end is left, while it is written.

Workers write their stdout and stderr straight into a file, so that nobody has to listen; what bounds it is the keeper,
which comes by. All of them append (rundir.begin_log), so a file may be cut under their hands. The studio's own log goes
to its stderr, which whoever started it keeps.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from studio.rundir import shorten
from studio.services.core.studio import Studio

# Bytes of a log that may be there, and those that are left of a longer one: a library that warns at each step.
MOST, KEPT = 16 * 2**20, 2**20
CHAT, WARM = "chat.log", "warm-worker.log"
_EVERY = 2.0  # seconds between two looks into all folders; the chat's log is seen to at each


@dataclass(slots=True)
class Round:
    """When all folders are looked into again (time.monotonic)."""

    due: float = 0.0


def chat_log(studio: Studio) -> Path:
    return studio.settings.home / CHAT


def warm_log(studio: Studio) -> Path:
    return studio.settings.cache / WARM


def bound(path: Path) -> None:
    """Leave of a log that is too long its end."""
    shorten(path, MOST, KEPT)


def look(studio: Studio) -> None:
    """For the keeper: bound the logs of all workers but the runs', which it sees to as it looks at them."""
    for path in (chat_log(studio), warm_log(studio)):
        bound(path)
    if time.monotonic() < studio.state(Round).due:
        return
    studio.state(Round).due = time.monotonic() + _EVERY
    settings = studio.settings
    for root in (settings.exports, settings.evaluations, settings.adapters, settings.staging, settings.models):
        for path in (*root.glob("*/log.txt"), *root.glob("*/*.log"), *root.glob("*.log")):
            with contextlib.suppress(OSError):  # it went just now, with its folder
                bound(path)
