"""Training worker with its libraries preloaded: `python -m studio.engine.workers.warm --nonce X`.

Imports what training needs, prints `ready`, and waits for one line on stdin: a run directory. It then trains that run
exactly as a worker started for it. If stdin closes first (the studio closed, or needs the memory), it exits.
"""

import argparse
import os
import sys
from pathlib import Path

from studio.engine.workers import harness, train
from studio.rundir import RunDir


def main() -> int:
    parser = argparse.ArgumentParser(description="Wait for a run to train.")
    parser.add_argument("--nonce", required=True, help="set by the launcher to identify this worker later")
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
