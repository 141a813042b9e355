"""Real engine workers, and real studios, without their long start: for tests that start many."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

from studio.rundir import Exit, RunDir, newest_checkpoint, write_json

# Importing the libraries takes longer than these runs: it is done once, each run is a fork of that process. It never
# computes itself, so it has no threads that a fork would lack.
WARM = """
import json, os, sys
import torch, transformers, trl, peft, bitsandbytes, datasets
from studio.engine.workers import export, train, harness as worker; from studio.engine.artefacts import merge
WORK = {"train": train.train, "export": export.export}
for line in sys.stdin:
    work, folder, nonce = json.loads(line)
    pid = os.fork()
    if not pid:
        os.setsid()
        os.chdir(folder)
        log = os.open(folder + "/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        os._exit(worker.serve("", WORK[work], [folder, "--nonce", nonce]))
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""

# Whoever is forked is nobody's to wait for: it is gone when it ends.
SERVING = """
import json, os, signal, sys
from studio.cli import app as cli
from studio.ui.web import server
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    words, log = json.loads(line)
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        cli.main(words)
        os._exit(0)
    print(pid, flush=True)
"""


class Studios:
    """Starts studios, each a fork of one process that has imported the pages. env: of all of them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        command = [sys.executable, "-c", SERVING]
        self._warm = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env)

    def start(self, words: Sequence[str], log: Path) -> psutil.Process:
        """`studio` with these words, which appends to `log` what it says."""
        assert self._warm.stdin is not None and self._warm.stdout is not None
        print(json.dumps([list(words), str(log)]), file=self._warm.stdin, flush=True)
        return psutil.Process(int(self._warm.stdout.readline()))

    def close(self) -> None:
        """What was started goes on."""
        assert self._warm.stdin is not None
        self._warm.stdin.close()
        self._warm.wait(60)


class Workers:
    """Starts workers, one at a time. nonces: by which the studio is to know them; threads: of torch, 0 as it likes."""

    def __init__(self, nonces: Sequence[str] = (), threads: int = 0) -> None:
        self._pid = 0
        command = [sys.executable, "-c", WARM, *nonces]
        # Threads that wait for one another by spinning hold each other up on a busy machine.
        told = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self._warm = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | told
        )

    def start(self, run: RunDir, work: Literal["train", "export"] = "train", nonce: str = "n") -> int:
        assert self._warm.stdin is not None
        print(json.dumps([work, str(run.path), nonce]), file=self._warm.stdin, flush=True)
        self._pid = int(self._line())
        return self._pid

    def wait(self) -> int:
        """The worker's exit status as waitpid tells it."""
        status = int(self._line())
        self._pid = 0
        return status

    def over(self) -> bool:
        """Whether `wait` would not have to."""
        return bool(select.select([self._warm.stdout], [], [], 0)[0])

    def work(self, run: RunDir, work: Literal["train", "export"] = "train") -> Exit:
        self.start(run, work)
        self.wait()
        end = Exit.read(run)
        assert end is not None, run.log_tail()
        return end

    def close(self) -> None:
        if self._pid:  # a test failed meanwhile
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.wait()
        assert self._warm.stdin is not None
        self._warm.stdin.close()
        self._warm.wait(60)

    def _line(self) -> str:
        assert self._warm.stdout is not None
        return self._warm.stdout.readline()


def resume(run: RunDir, checkpoint: Path | None = None, **longer: Any) -> None:
    """Do what the studio does before it starts another worker."""
    number = 1 + len(list(run.attempts.iterdir())) if run.attempts.exists() else 1
    (run.attempts / str(number)).mkdir(parents=True)
    for path in (run.worker, run.exit, run.claim, run.heartbeat):
        if path.exists():
            path.rename(run.attempts / str(number) / path.name)
    shutil.rmtree(run.control, ignore_errors=True)
    found = checkpoint or newest_checkpoint(run)
    told = {"attempt": number + 1, "checkpoint": str(found.relative_to(run.path)) if found else "", **longer}
    write_json(run.resume, {"num_train_epochs": None, "max_steps": None, **told})
