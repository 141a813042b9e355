"""Bounded logs: a log that has grown too long is cut to its end while it is being written.

Workers write stdout and stderr straight to a file, so no process has to read them; the keeper bounds the files. All
workers append (rundir.begin_log), so a file can be cut while it is open. The studio's own log goes to stderr, and the
process that started the studio handles it.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from studio.rundir import shorten
from studio.services.core.studio import Studio

# Maximum size of a log in bytes, and what is kept of a longer one (a library may warn at each step).
MOST, KEPT = 16 * 2**20, 2**20
CHAT, WARM = "chat.log", "warm-worker.log"
_EVERY = 2.0  # seconds between two checks of all folders; the chat log is checked at each look


@dataclass(slots=True)
class Round:
    """When all folders are due for a check (time.monotonic)."""

    due: float = 0.0


def chat_log(studio: Studio) -> Path:
    return studio.settings.home / CHAT


def warm_log(studio: Studio) -> Path:
    return studio.settings.cache / WARM


def bound(path: Path) -> None:
    """Cut a log that is too long to its end."""
    shorten(path, MOST, KEPT)


def look(studio: Studio) -> None:
    """For the keeper: bound the logs of all workers except those of runs, which look_at_run bounds."""
    for path in (chat_log(studio), warm_log(studio)):
        bound(path)
    if time.monotonic() < studio.state(Round).due:
        return
    studio.state(Round).due = time.monotonic() + _EVERY
    settings = studio.settings
    for root in (settings.exports, settings.evaluations, settings.adapters, settings.staging, settings.models):
        for path in (*root.glob("*/log.txt"), *root.glob("*/*.log"), *root.glob("*.log")):
            with contextlib.suppress(OSError):  # it was deleted just now, with its folder
                bound(path)
