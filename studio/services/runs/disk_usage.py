"""Disk usage of runs: measured by the keeper a few runs at a time, stored in the index, never measured for a page."""

import os
import stat
import time
from pathlib import Path

from studio.services.core.studio import Studio
from studio.store import run_list

# A live run grows all the time; one that is over changes only when checkpoints are pruned.
_LIVE_SECONDS = 15.0
_OVER_SECONDS = 1800.0
# Seconds that one look may spend on measuring.
_BUDGET = 0.04


def taken(folder: Path) -> int:
    """Size in bytes of all files below a folder, checkpoints included; a file with several hard links counts once."""
    size, folders, seen = 0, [folder], set()
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        folders.append(Path(entry.path))
                    elif info.st_nlink == 1 or (info.st_dev, info.st_ino) not in seen:
                        seen.add((info.st_dev, info.st_ino))
                        size += info.st_size
        except OSError:  # a worker may delete files meanwhile
            continue
    return size


def measure_some(studio: Studio, budget: float | None = _BUDGET) -> None:
    """Measure runs whose size is unknown or out of date, at least one, for about `budget` seconds (None: all)."""
    now, began = time.time(), time.monotonic()
    sizes: dict[str, int] = {}
    for run_id, _ in run_list.unmeasured(studio.database, now, _LIVE_SECONDS, _OVER_SECONDS):
        sizes[run_id] = taken(studio.run_dir(run_id).path)
        if budget is not None and time.monotonic() - began > budget:
            break
    if sizes:
        run_list.measured(studio.database, sizes, now)
