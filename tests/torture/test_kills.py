"""Workers and studios are killed at random moments: no acknowledged point is lost, none doubled, none missing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

from studio.rundir import RunDir, write_json
from studio.services.core.keeper import Keeper
from studio.services.runs import resuming, runs
from studio.settings import Settings
from tests.conftest import REPOSITORY
from tests.torture.house import (
    TIMES,
    acknowledged,
    copy_of,
    end_all,
    lost_doubled_gaps,
    new_run,
    said,
    wait_for,
    wait_for_end,
    workers_of,
)

KILLS = 5 * TIMES
# Every so many kills another run and another home: a journal that is read whole again and again must not grow for ever.
CHAPTER = 10
BACK: list[float] = []  # seconds from a studio's start to its having found its workers


def keep(home: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.torture.keep", str(home)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None and process.stdout.readline() == "kept\n"
    BACK.append(time.monotonic() - began)  # it has looked at every run by then
    return process


def tear(run: RunDir, dice: random.Random) -> None:
    """Begin a line that was never acknowledged, as a worker does that is killed while it writes."""
    line = run.events.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)[-1]
    with run.events.open("ab") as file:
        file.write(line[: dice.randrange(len(line))])


def test_kills_at_any_moment(furnished: Path, home: Settings) -> None:
    dice = random.Random(11)
    counts: Counter[str] = Counter()
    for left in range(KILLS, 0, -CHAPTER):
        kill_again_and_again(home, dice, min(left, CHAPTER), counts)
        end_all(home.home)
        copy_of(furnished, home.home)
    assert counts["kills of workers"] and counts["kills of studios"]
    said("kills", counts | {"lost": 0, "doubled": 0, "gaps": 0})
    print(f"seconds until a studio is back: median {median(BACK):.1f}, longest {max(BACK):.1f}, of {len(BACK)}")


def kill_again_and_again(home: Settings, dice: random.Random, times: int, counts: "Counter[str]") -> None:
    """One run, of which the worker, the studio or both are killed so many times, brought to its end after all."""
    process = keep(home.home)
    with Keeper(home) as reader:
        assert not reader.keeping
        run = new_run(reader, steps=10**6, delay=0.002, save=50)
        for _ in range(times):
            before = runs.get(reader, run.id).step
            wait_for(reader, lambda: runs.get(reader, run.id).state == "running")
            wait_for(reader, lambda: runs.get(reader, run.id).step != before)  # noqa: B023
            time.sleep(dice.random() * 0.3)
            counts["moments"] += 1
            if dice.random() < 0.4:
                process.kill()
                process.wait()
                counts["kills of studios"] += 1
                if dice.random() < 0.5:
                    kill(run, counts)
                process = keep(home.home)
            else:
                kill(run, counts)
            if not workers_of(run):
                info = wait_for_end(reader, run)
                assert (info.state, info.cause) == ("interrupted", "killed"), info
                if dice.random() < 0.7:
                    tear(run, dice)
                    counts["torn lines"] += 1
                assert lost_doubled_gaps(reader, run) == (0, 0, 0)
                resuming.resume(reader, run.id)
                wait_for(reader, lambda: not runs.get(reader, run.id).final)
        wait_for(reader, lambda: runs.get(reader, run.id).state == "running")
        runs.stop(reader, run.id)
        total = wait_for_end(reader, run).step + 200
        write_json(run.path / "fake.json", {"steps": total, "save": 100})
        resuming.resume(reader, run.id)
        wait_for(reader, lambda: runs.get(reader, run.id).state == "completed")
        points = len(runs.points(reader, run.id).metrics)
        assert lost_doubled_gaps(reader, run) == (0, 0, 0) and points == total
        process.send_signal(signal.SIGKILL)
        process.wait()
    home.database.unlink()
    with Keeper(home) as studio:
        assert lost_doubled_gaps(studio, run) == (0, 0, 0)
        assert len(runs.points(studio, run.id).metrics) == points
    counts["points acknowledged"] += len(acknowledged(run))
    counts["points at the end"] += points


def kill(run: RunDir, counts: "Counter[str]") -> None:
    for pid in workers_of(run):
        os.kill(pid, signal.SIGKILL)
        counts["kills of workers"] += 1
