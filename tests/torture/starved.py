"""A studio with little memory, whose worker takes all of it: `python -m tests.torture.starved HOME GROUP BYTES`.

GROUP is an empty control group that this process puts itself into, and that may take BYTES. Prints how the run ended.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from studio.services.core import rounds
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.torture.house import WORKER, new_run, wait_for_end


def main() -> None:
    home, group, limit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    files = [group / name for name in ("memory.max", "memory.limit_in_bytes")]
    next(path for path in files if path.exists()).write_text(limit)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    rounds.TRAINER = WORKER
    with Keeper(Settings(home=home, offline=True, keeper_interval=0.05)) as studio:
        run = new_run(studio, end="eat", at=7)
        print(json.dumps(asdict(wait_for_end(studio, run))))


if __name__ == "__main__":
    main()
