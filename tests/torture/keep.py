"""A studio in a process of its own, to be killed: `python -m tests.torture.keep HOME`."""

import sys
import time
from pathlib import Path

from studio.services import keeper
from studio.services.studio import Studio
from studio.settings import Settings
from tests.torture.house import WORKER

if __name__ == "__main__":
    keeper.TRAINER = WORKER
    with Studio(Settings(home=Path(sys.argv[1]), offline=True, keeper_interval=0.05)).keep():
        print("kept", flush=True)
        time.sleep(3600)
