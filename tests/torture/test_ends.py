"""Twelve ends, again and again in a random order: each is told for what it was."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from studio.launch import workers
from studio.machine import exit_evidence
from studio.rundir import Beat, Identity, RunDir, read_json, write_json
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.runs import runs
from studio.settings import Settings
from tests.torture.house import TIMES, new_run, said, wait_for, wait_for_end, workers_of

LONG = {"steps": 100_000, "delay": 0.002}


def dies(number: int) -> Callable[[Studio], RunDir]:
    def end(studio: Studio) -> RunDir:
        run = new_run(studio, **LONG)
        wait_for(studio, lambda: runs.get(studio, run.id).step > 5)
        os.kill(workers_of(run)[0], number)
        return run

    return end


def unseen(**lie: object) -> Callable[[Studio], RunDir]:
    """It ends while no studio looks, and what it wrote of itself no longer fits."""

    def end(studio: Studio) -> RunDir:
        run = new_run(studio, **LONG)
        wait_for(studio, lambda: runs.get(studio, run.id).step > 5)
        identity = Identity.read(run)
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
        workers._children.pop(identity.pid)[1].wait()
        write_json(run.worker, (read_json(run.worker) or {}) | lie)
        return run

    return end


def told(**fake: object) -> Callable[[Studio], RunDir]:
    return lambda studio: new_run(studio, **fake)


def stopped(studio: Studio) -> RunDir:
    run = new_run(studio, **LONG)
    wait_for(studio, lambda: runs.get(studio, run.id).step > 5)
    runs.stop(studio, run.id)
    return run


def hung(studio: Studio) -> RunDir:
    run = new_run(studio, end="wait", at=7)
    wait_for(studio, lambda: runs.get(studio, run.id).step == 7)
    Beat(time.time(), time.time() - 9999, 7).write(run)
    assert runs.get(studio, run.id).state == "stalled" and workers_of(run)
    os.kill(workers_of(run)[0], signal.SIGKILL)
    return run


ENDS: dict[str, tuple[Callable[[Studio], RunDir], str, str]] = {
    "finished": (told(), "completed", "finished"),
    "stopped": (stopped, "stopped", "stopped"),
    "exception": (told(end="error", at=7), "failed", "error"),
    "device memory": (told(end="memory", at=7), "failed", "memory"),
    "kernel, for memory": (dies(signal.SIGKILL), "interrupted", "killed_for_memory"),
    "killed by someone": (dies(signal.SIGTERM), "interrupted", "killed"),
    "disk full": (told(end="disk", at=7), "failed", "disk"),
    "no finite loss": (told(end="nonfinite", at=7), "failed", "nonfinite"),
    "hung, then killed": (hung, "interrupted", "killed"),
    "rebooted": (unseen(boot_id="another"), "interrupted", "rebooted"),
    "number reused": (unseen(pid=os.getpid()), "interrupted", "gone"),
    "never started": (told(end="never_started"), "failed", "never_started"),
}


def test_every_end_is_told_rightly(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    dice, right = random.Random(2), Counter[str]()
    kills, slowest = 0, 0.0
    monkeypatch.setattr(exit_evidence, "oom_kills", lambda: kills)
    with Keeper(home) as studio:
        for _ in range(TIMES):
            for name in dice.sample(list(ENDS), len(ENDS)):
                make, state, cause = ENDS[name]
                run = make(studio)
                kills += name == "kernel, for memory"
                info = wait_for_end(studio, run)
                slowest = max(slowest, time.time() - (info.ended or 0.0))
                assert (info.state, info.cause) == (state, cause), (name, info.message)
                assert info.message and (info.remedy or state in ("completed", "stopped") or info.message), name
                right[name] += 1
        shown = runs.list_runs(studio)
        runs.rebuild(studio)
        assert runs.list_runs(studio) == shown
    said("ends told rightly", dict(right))
    print(f"the slowest was told {slowest:.1f} s after its worker was last heard of")
