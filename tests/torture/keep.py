"""A studio in a process of its own, to be killed: `python -m tests.torture.keep HOME`."""

import sys
import time
from pathlib import Path

from studio.services.core import rounds
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.torture.house import WORKER

if __name__ == "__main__":
    rounds.TRAINER = WORKER
    with Keeper(Settings(home=Path(sys.argv[1]), offline=True, keeper_interval=0.05)).start():
        print("kept", flush=True)
        time.sleep(3600)
