"""A trainer that only keeps its word: journal, heartbeat, checkpoints and ends like the real one, in milliseconds.

It does what `fake.json` of its run directory says: `steps`, `delay` seconds a step, `save` a checkpoint every so many
steps, `end` how to end after `at` steps, `log` bytes to write into its log at each step. What it has acknowledged (a
journal line that was written) it notes in `acknowledged`, one "seq step" a line, which is how a test knows what may not
be lost.
"""

import argparse
import os
import socket
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from studio.rundir import (
    Beat,
    Exit,
    Identity,
    Journal,
    RunDir,
    boot_id,
    process_started,
    read_json,
    verify_folder,
    whole_folder,
)

ENDS = {
    "error": Exit(
        "failed", "The work stopped with an error: ValueError: no", cause="error", traceback="ValueError: no"
    ),
    "memory": Exit("failed", "The memory of the device was not enough for this run.", "Less.", cause="memory"),
    "disk": Exit("failed", "The disk is full.", "Free some space, then start again.", cause="disk"),
    "nonfinite": Exit("failed", "The loss was not a finite number in 3 steps in a row.", cause="nonfinite"),
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nonce", required=True)
    given = parser.parse_args()
    run = RunDir(given.directory)
    told = {"steps": 20, "delay": 0.0, "save": 5, "end": "", "at": 0, "log": 0} | (
        read_json(run.path / "fake.json") or {}
    )
    if told["end"] == "never_started":
        return 7
    lock = FileLock(run.worker_lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return 3
    with lock:
        pid = os.getpid()
        Identity(pid, process_started(pid) or 0.0, boot_id(), given.nonce, socket.gethostname()).write(run)
        with Journal(run.events) as journal:
            how = train(run, journal, told)
            journal.write("state", sync=True, state=how.state, message=how.message, cause=how.cause)
        how.write(run)
    return 0 if how.state != "failed" else 1


def train(run: RunDir, journal: Journal, told: dict) -> Exit:
    plan = read_json(run.resume) or {}
    journal.write("state", state="starting")
    step, total = 0, int(plan.get("max_steps") or told["steps"])
    if plan:
        if plan["checkpoint"]:
            folder = run.path / plan["checkpoint"]
            assert verify_folder(folder) is None
            step = int(folder.name.removeprefix("step-"))
        journal.write("resumed", step=step, attempt=plan["attempt"])
    journal.write("plan", total_steps=total, device="CPU")
    journal.write("state", state="running")
    acknowledged = os.open(run.path / "acknowledged", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    beaten = 0.0
    while step < total:
        if run.consume("cancel"):
            journal.write("state", state="stopping")
            return Exit(
                "stopped", f"Cancelled at step {step} of {total}: its adapter was not saved.", cause="cancelled"
            )
        if run.consume("stop"):
            journal.write("state", state="stopping")
            save(run, journal, step)
            return Exit("stopped", f"Stopped at step {step} of {total}.", cause="stopped")
        step += 1
        point = journal.write("metric", step=step, loss=3.0 / step)
        os.write(acknowledged, f"{point.seq} {step}\n".encode())
        if told["log"]:
            print("x" * (told["log"] // 2), flush=True)
            print("y" * (told["log"] // 2), file=sys.stderr, flush=True)
        if time.monotonic() - beaten > 0.1:
            beaten = time.monotonic()
            Beat(time.time(), time.time(), step).write(run)
        if step % told["save"] == 0 or step == total:
            save(run, journal, step)
        if told["at"] == step and told["end"]:
            if told["end"] == "wait":
                time.sleep(600)
            elif told["end"] == "eat":
                eaten = []
                while True:
                    eaten.append(b"x" * 2**24)
            elif told["end"].startswith("exit"):
                os._exit(int(told["end"][4:]))
            elif told["end"].startswith("signal"):
                os.kill(os.getpid(), int(told["end"][6:]))
            else:
                return ENDS[told["end"]]
        time.sleep(told["delay"])
    return Exit("completed", f"Completed {total} steps.", cause="finished")


def save(run: RunDir, journal: Journal, step: int) -> None:
    if not step or (run.checkpoints / f"step-{step}").exists():
        return
    with whole_folder(run.checkpoints / f"step-{step}") as folder:
        (folder / "weights").write_bytes(step.to_bytes(8, "big") * 100)
    journal.write("checkpoint", sync=True, step=step, path=f"checkpoints/step-{step}")


if __name__ == "__main__":
    sys.exit(main())
