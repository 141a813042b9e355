"""How much of the disk a run takes: counted by the keeper a few runs at a time, kept in the index, never for a page."""

import os
import stat
import time
from pathlib import Path

from studio.services.core.studio import Studio
from studio.store import run_list

# Of a run that works, its size is of interest soon; one that is over changes only when something is pruned.
_LIVE_SECONDS = 15.0
_OVER_SECONDS = 1800.0
# What one look may spend on it.
_BUDGET = 0.04


def taken(folder: Path) -> int:
    """Bytes of all files below a folder, its checkpoints too; a file under several names counts once."""
    size, folders, seen = 0, [folder], set()
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        folders.append(Path(entry.path))
                    elif found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                        seen.add((found.st_dev, found.st_ino))
                        size += found.st_size
        except OSError:  # a worker takes away what it no longer needs
            continue
    return size


def measure_some(studio: Studio, budget: float | None = _BUDGET) -> None:
    """Count the runs whose size is not known or old, at least one, for about `budget` seconds; None: all of them."""
    now, began = time.time(), time.monotonic()
    found: dict[str, int] = {}
    for run_id, _ in run_list.unmeasured(studio.database, now, _LIVE_SECONDS, _OVER_SECONDS):
        found[run_id] = taken(studio.run_dir(run_id).path)
        if budget is not None and time.monotonic() - began > budget:
            break
    if found:
        run_list.measured(studio.database, found, now)
