"""Every end is told for what it was: what happened, after which step, what to do next; and the same after a restart."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio.engine.workers import harness as worker
from studio.launch import workers
from studio.machine import exit_evidence, ram
from studio.rundir import DISK_FULL_STATUS, Beat, Exit, Identity, Journal, RunDir, read_json, write_json
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.runs import ends, history, runs
from studio.settings import Settings
from tests.torture.house import new_run, wait_for, wait_for_end, workers_of

pytestmark = pytest.mark.slow


def kill_at_step(studio: Studio, run: RunDir, number: int) -> None:
    wait_for(studio, lambda: runs.get(studio, run.id).step >= 6)
    (pid,) = workers_of(run)
    os.kill(pid, number)


@pytest.mark.parametrize(
    ("fake", "state", "cause", "said"),
    [
        ({}, "completed", "finished", "Completed 20 steps"),
        ({"end": "error", "at": 7}, "failed", "error", "ValueError: no"),
        ({"end": "memory", "at": 7}, "failed", "memory", "memory of the device"),
        ({"end": "disk", "at": 7}, "failed", "disk", "disk is full"),
        ({"end": "nonfinite", "at": 7}, "failed", "nonfinite", "not a finite number"),
        ({"end": "never_started"}, "failed", "never_started", "exit status 7"),
        (
            {"end": "exit28", "at": 7},
            "failed",
            "disk",
            "The disk was too full for its worker to record its end: it ended",
        ),
        ({"end": "exit9", "at": 7}, "interrupted", "gone", "exit status 9, after step 7"),
        ({"end": "signal9", "at": 7}, "interrupted", "killed", "SIGKILL) after step 7"),
        ({"end": "signal15", "at": 7}, "interrupted", "killed", "SIGTERM) after step 7"),
        ({"end": "signal11", "at": 7}, "interrupted", "error", "crashed in a library (SIGSEGV) after step 7"),
    ],
)
def test_ends(home: Settings, fake: dict[str, object], state: str, cause: str, said: str) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, **fake)
        info = wait_for_end(studio, run)
        assert (info.state, info.cause) == (state, cause) and said in info.message
        assert info.can_resume == (state != "completed")
        if state == "interrupted":
            assert "it continues from the checkpoint of step 5" in info.remedy
        if cause == "memory":
            assert "max_length" in info.remedy and "GiB" in info.remedy
    home.database.unlink()
    with Keeper(home) as studio:
        assert runs.get(studio, run.id) == info
        assert runs.rebuild(studio) == 1 and runs.get(studio, run.id) == info


def test_a_kill_for_memory_is_told_from_another(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = 3
    monkeypatch.setattr(exit_evidence, "oom_kills", lambda: kills)
    with Keeper(home) as studio:
        run = new_run(studio, steps=10_000, delay=0.01)
        wait_for(studio, lambda: runs.get(studio, run.id).step >= 6)
        kills = 4
        kill_at_step(studio, run, signal.SIGKILL)
        info = wait_for_end(studio, run)
    assert (info.state, info.cause) == ("interrupted", "killed_for_memory")
    assert "memory ran out" in info.message and "Clone it with one change" in info.remedy
    kills = 3
    with Keeper(home) as studio:
        assert runs.get(studio, run.id) == info


class Full:
    """A disk that fills up at some moment: nothing can be written from then on, not even to the log."""

    full = False

    def closed(self, function: Any) -> Any:
        def write(*arguments: Any, **more: Any) -> Any:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **more)

        return write


@pytest.mark.parametrize("when", ["before its first word", "at work", "in the log"])
def test_a_worker_on_a_full_disk_tells_by_its_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    disk = Full()
    monkeypatch.setattr("builtins.print", disk.closed(print))
    if when != "in the log":
        monkeypatch.setattr(Journal, "write", disk.closed(Journal.write))
        monkeypatch.setattr(Identity, "write", disk.closed(Identity.write))
        monkeypatch.setattr(Exit, "write", disk.closed(Exit.write))
    disk.full = when == "before its first word"

    def body(work: worker.Worker) -> Exit:
        disk.full = True
        work.phase("Saving")
        return Exit("completed", "Done.")

    code = worker.serve("", body, [str(tmp_path), "--nonce", "n"])
    end = Exit.read(RunDir(tmp_path))
    if when == "in the log":  # lines that are lost there harm nobody
        assert code == 0 and end is not None and end.cause == "finished"
    else:
        assert code == DISK_FULL_STATUS and end is None


@pytest.mark.parametrize(("share", "cause"), [(0.95, "killed_for_memory"), (0.2, "killed")])
def test_where_nobody_counts_the_workers_own_memory_tells(
    home: Settings, monkeypatch: pytest.MonkeyPatch, share: float, cause: str
) -> None:
    monkeypatch.setattr(exit_evidence, "oom_kills", lambda: None)
    monkeypatch.setattr(ram, "look", lambda: ram.Ram(2**30, 2**29))
    with Keeper(home) as studio:
        run = new_run(studio, steps=100, end="wait", at=7)
        wait_for(studio, lambda: runs.get(studio, run.id).step == 7)
        Beat(time.time(), time.time(), 7, memory=int(share * 2**30)).write(run)
        os.kill(workers_of(run)[0], signal.SIGKILL)
        info = wait_for_end(studio, run)
        assert (info.state, info.cause) == ("interrupted", cause)
        assert history.story_of(studio, run.id).attempts[0].memory == int(share * 2**30)


def test_the_kernels_counts_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\n")
    monkeypatch.setattr(ram, "groups", lambda controller, root: [tmp_path] if not controller else [])
    assert exit_evidence.oom_kills() == 2


def test_the_kernels_log_names_its_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        stdout = "[  100.5] Out of memory: Killed process 4242 (python) total-vm:1kB\n[  101.0] other\n"

    monkeypatch.setattr(exit_evidence.subprocess, "run", lambda *_, **__: Done)
    assert exit_evidence.named_by_kernel(4242, since=1090.0, boot=1000.0)
    assert not exit_evidence.named_by_kernel(4242, since=2000.0, boot=1000.0)  # another process, long ago
    assert not exit_evidence.named_by_kernel(4243, since=1090.0, boot=1000.0)


@pytest.mark.parametrize(("lie", "cause"), [("boot_id", "rebooted"), ("pid", "gone")])
def test_what_is_found_after_a_while(home: Settings, lie: str, cause: str) -> None:
    """A studio that comes back to the traces of a worker it did not see end."""
    with Keeper(home) as studio:
        run = new_run(studio, steps=10_000, delay=0.01)
        kill_at_step(studio, run, signal.SIGKILL)
        (pid,) = workers._children  # it is reaped here, unseen by the keeper
        workers._children.pop(pid)[1].wait()
        told = read_json(run.worker) or {}
        write_json(run.worker, told | ({"boot_id": "another"} if lie == "boot_id" else {"pid": os.getpid()}))
        info = runs.get(studio, run.id)
    assert (info.state, info.cause) == ("interrupted", cause) and "step" in info.message


def test_who_was_killed_unseen_is_told_as_killed(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, steps=10_000, delay=0.01)
        kill_at_step(studio, run, signal.SIGKILL)
        (pid,) = workers._children
        workers._children.pop(pid)[1].wait()
        info = runs.get(studio, run.id)
    assert (info.state, info.cause) == ("interrupted", "killed") and "was killed, or crashed" in info.message


def test_a_child_that_is_just_ending_lives_until_its_exit_status_is_known(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes a process's memory, its command line in it, a moment before the process is over."""
    with Keeper(home) as studio:
        run = new_run(studio, steps=100, end="wait", at=7)
        wait_for(studio, lambda: runs.get(studio, run.id).step == 7)
        pids = workers_of(run)
        monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [])
        assert workers.find(run) == "alive" and runs.get(studio, run.id).state == "running"
        os.kill(pids[0], signal.SIGSEGV)
        info = wait_for_end(studio, run)
    assert info.cause == "error" and "SIGSEGV" in info.message


def test_standing_still_is_told_with_its_time_and_left_alone(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, steps=100, end="wait", at=7)
        wait_for(studio, lambda: runs.get(studio, run.id).step == 7)
        since = time.time() - 4000
        Beat(time.time(), since, 7).write(run)
        info = runs.get(studio, run.id)
        assert (info.state, info.stalled_since, info.cause) == ("stalled", since, "")
        assert "no progress since" in info.message and "after step 7" in info.message
        assert workers_of(run)
        Beat(time.time(), time.time(), 7).write(run)
        info = runs.get(studio, run.id)
        assert (info.state, info.stalled_since) == ("running", None)


def test_a_worker_that_ended_between_its_last_word_and_its_end(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio)
        wait_for_end(studio, run)
        for path in (run.exit, run.ended):
            path.unlink()
        runs.rebuild(studio)
        info = runs.get(studio, run.id)
    assert (info.state, info.message) == ("completed", "Completed 20 steps.")


def test_its_last_word_in_the_journal_tells_the_cause(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, end="disk", at=7)
        wait_for_end(studio, run)
        for path in (run.exit, run.ended):
            path.unlink()
        runs.rebuild(studio)
        assert (info := runs.get(studio, run.id)).cause == "disk" and info.message == "The disk is full."


def test_a_launcher_that_died_before_it_launched(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio)
        write_json(run.claim, {"nonce": "nobody", "time": time.time() - 60, "boot_id": workers.boot_id()})
        assert wait_for_end(studio, run).state == "completed"
        assert Identity.read(run).nonce != "nobody"  # type: ignore[union-attr]


def test_the_story_tells_all_of_it(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, name="told", end="signal9", at=7)
        wait_for_end(studio, run)
        told = history.story_of(studio, run.id)
        assert [event.state for event in told.states] == ["queued", "starting", "running", "interrupted"]
        assert [(one.step, one.fault) for one in told.checkpoints] == [(5, "")]
        assert told.checkpoint_bytes > 800 and "model: tiny" in told.recipe and told.dataset["sha256"]
        (worker,) = told.attempts
        assert not worker.alive and worker.state == "interrupted" and worker.pid and worker.host
        (run.checkpoints / "step-5" / "weights").write_bytes(b"bad")
        assert "damaged" in history.story_of(studio, run.id).checkpoints[0].fault
        json = history.as_dict(told)
        assert json["id"] == run.id and json["cause"] == "killed" and json["attempts"][0]["number"] == 1
        assert ends.End.read(run).log == run.log_tail(4_000)  # type: ignore[union-attr]
