"""A training worker made ready before its run is known: `python -m studio.engine.workers.warm --nonce X`.

It imports what training needs, says so, and waits for one line on stdin: a run's directory, whose worker it then is as
if it had been started for it. Where stdin ends first (the studio closed, or wants the memory), it leaves.
"""

import argparse
import os
import sys
from pathlib import Path

from studio.engine.workers import harness, train
from studio.rundir import RunDir


def main() -> int:
    parser = argparse.ArgumentParser(description="Wait for a run to train.")
    parser.add_argument("--nonce", required=True, help="told by the launcher, to recognise this worker again")
    nonce = parser.parse_args().nonce
    train.import_libraries()
    print("ready", flush=True)
    directory = sys.stdin.readline().rstrip("\n")
    if not directory:
        return 0
    os.chdir(directory)
    with RunDir(Path(directory)).log.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    return harness.serve("Train a run.", train.train, [directory, "--nonce", nonce])


if __name__ == "__main__":
    raise SystemExit(main())
