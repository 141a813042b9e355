"""Nobody has to listen to a worker: it writes its log into a file, however much, and is never held up by a reader."""

import pytest

from studio.rundir import Exit
from studio.services.core.keeper import Keeper
from studio.services.runs import runs
from studio.settings import Settings
from tests.torture.house import lost_doubled_gaps, new_run, wait_for, wait_for_end
from tests.torture.test_kills import keep

STEPS, FLOOD = 200, 10 * 2**20


def test_ten_megabytes_of_log_with_the_studio_killed(home: Settings) -> None:
    process = keep(home.home)
    with Keeper(home) as reader:
        run = new_run(reader, steps=STEPS, delay=0.005, log=FLOOD // STEPS)
        wait_for(reader, lambda: runs.get(reader, run.id).step > 3)
        process.kill()
        process.wait()
        # No studio looks, and its end of anything that it shared with the worker is closed.
        wait_for(reader, run.exit.exists)
    end = Exit.read(run)
    assert end is not None and end.cause == "finished" and run.log.stat().st_size >= FLOOD
    with Keeper(home) as studio:
        info = wait_for_end(studio, run)
        assert (info.state, info.step) == ("completed", STEPS) and lost_doubled_gaps(studio, run) == (0, 0, 0)
        assert 0 < len(runs.log_tail(studio, run.id)) <= 8_000


def test_a_log_without_end_is_shortened_while_it_is_written(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**20
    monkeypatch.setattr("studio.services.runs.logs.MOST", most)
    monkeypatch.setattr("studio.services.runs.logs.KEPT", most // 8)
    with Keeper(home).start() as studio:
        run = new_run(studio, steps=STEPS, delay=0.005, log=FLOOD // STEPS)
        wait_for(
            studio, lambda: run.log.exists() and run.log.read_bytes().startswith(b"[what came before was left out")
        )
        info = wait_for_end(studio, run)
        assert (info.state, info.step) == ("completed", STEPS) and lost_doubled_gaps(studio, run) == (0, 0, 0)
        assert 0 < len(runs.log_tail(studio, run.id)) <= 8_000
