"""Workers and studios are killed at random moments: no acknowledged point is lost, none doubled, none missing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from studio.rundir import RunDir, write_json
from studio.services import resuming, runs
from studio.services.studio import Studio
from studio.settings import Settings
from tests.conftest import REPOSITORY
from tests.torture.house import TIMES, lost_doubled_gaps, new_run, said, wait_for, wait_for_end, workers_of

KILLS = 5 * TIMES


def keep(home: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.torture.keep", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None and process.stdout.readline() == "kept\n"
    return process


def tear(run: RunDir, dice: random.Random) -> None:
    """Begin a line that was never acknowledged, as a worker does that is killed while it writes."""
    line = run.events.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)[-1]
    with run.events.open("ab") as file:
        file.write(line[: dice.randrange(len(line))])


def test_kills_at_any_moment(home: Settings) -> None:
    dice = random.Random(11)
    counts = {"kills of workers": 0, "kills of studios": 0, "torn lines": 0}
    process = keep(home.home)
    with Studio(home) as reader:
        assert not reader.keeping
        run = new_run(reader, steps=10**6, delay=0.0005, save=100)
        for _ in range(KILLS):
            before = runs.get(reader, run.id).step
            wait_for(reader, lambda: runs.get(reader, run.id).state == "running")
            wait_for(reader, lambda: runs.get(reader, run.id).step != before)  # noqa: B023
            time.sleep(dice.random() * 0.3)
            if dice.random() < 0.4:
                process.kill()
                process.wait()
                counts["kills of studios"] += 1
                if dice.random() < 0.5:
                    kill(run, counts)
                process = keep(home.home)
            else:
                kill(run, counts)
            if counts["kills of workers"] and not workers_of(run):
                info = wait_for_end(reader, run)
                assert (info.state, info.cause) == ("interrupted", "killed"), info
                if dice.random() < 0.7:
                    tear(run, dice)
                    counts["torn lines"] += 1
                assert lost_doubled_gaps(reader, run) == (0, 0, 0)
                resuming.resume(reader, run.id)
                wait_for(reader, lambda: not runs.get(reader, run.id).final)
        wait_for(reader, lambda: runs.get(reader, run.id).state == "running")
        total = runs.get(reader, run.id).step + 200
        runs.stop(reader, run.id)
        wait_for_end(reader, run)
        write_json(run.path / "fake.json", {"steps": total, "save": 100})
        resuming.resume(reader, run.id)
        wait_for(reader, lambda: runs.get(reader, run.id).state == "completed")
        points = len(runs.points(reader, run.id).metrics)
        assert lost_doubled_gaps(reader, run) == (0, 0, 0) and points == total
        process.send_signal(signal.SIGKILL)
        process.wait()
    home.database.unlink()
    with Studio(home) as studio:
        assert lost_doubled_gaps(studio, run) == (0, 0, 0)
        assert len(runs.points(studio, run.id).metrics) == points
    said("kills", counts | {"points": points, "lost": 0, "doubled": 0, "gaps": 0})


def kill(run: RunDir, counts: dict[str, int]) -> None:
    for pid in workers_of(run):
        os.kill(pid, signal.SIGKILL)
        counts["kills of workers"] += 1
