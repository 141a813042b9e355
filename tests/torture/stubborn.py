"""A worker that says where it is, and then neither goes on nor stops."""

import signal
import time

from studio.engine.workers import harness
from studio.engine.workers.harness import Worker
from studio.rundir import Exit


def stand_still(work: Worker) -> Exit:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work.state("running")
    work.progress("Counting", 1, 3)
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(harness.serve("A worker that stands still.", stand_still))
