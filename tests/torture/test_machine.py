"""Anything a person may do to runs, in any order: states do not lie, the queue is kept, nothing is lost or left."""

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
from pathlib import Path

from filelock import FileLock
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from studio.launch import workers
from studio.rundir import RunDir
from studio.services.core.keeper import Keeper
from studio.services.runs import queue, resuming, runs
from studio.settings import Settings
from tests.torture.house import (
    TIMES,
    copy_of,
    end_all,
    fake_trainer,
    lost_doubled_gaps,
    new_run,
    said,
    wait_for,
    wait_for_end,
    workers_of,
)

ACTIVE = ("starting", "running", "stalled", "stopping")
DONE = {"rules": 0, "runs": 0, "kills": 0, "restarts": 0, "resumed": 0}


class Machine(RuleBasedStateMachine):
    """A studio over a home, driven at random; `line` is the queue as it should be."""

    home: Path

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="torture-"))
        self.settings: Settings = copy_of(self.home, self.folder / "home")
        self.keeper = Keeper(self.settings)
        self.studio = self.keeper.studio
        self.runs: list[RunDir] = []
        self.line: list[str] = []
        for steps in (100_000, 5, 30, 100_000):
            self.start(steps, 0.002)

    def _infos(self) -> list[runs.RunInfo]:
        return runs.list_runs(self.studio)  # all of one look

    def _pick(self, number: int, *states: str) -> runs.RunInfo | None:
        found = [info for info in self._infos() if info.state in states]
        return found[number % len(found)] if found else None

    @rule(steps=st.sampled_from([5, 30, 100_000]), delay=st.sampled_from([0.0, 0.002]))
    def begin(self, steps: int, delay: float) -> None:
        self.start(steps, delay)

    def start(self, steps: int, delay: float) -> None:
        if len(self.runs) < 6:
            run = new_run(self.studio, steps=steps, delay=delay or 0.0005, save=7)
            self.runs.append(run)
            self.line.append(run.id)
            DONE["runs"] += 1

    @rule(number=st.integers(0, 5), cancel=st.booleans())
    def stop(self, number: int, cancel: bool) -> None:
        info = self._pick(number, "queued", *ACTIVE)
        if info:
            with contextlib.suppress(runs.Conflict):  # it may just have ended by itself
                (runs.cancel if cancel else runs.stop)(self.studio, info.id)

    @rule(number=st.integers(0, 5))
    def kill(self, number: int) -> None:
        info = self._pick(number, *ACTIVE)
        for pid in workers_of(self.studio.run_dir(info.id)) if info else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                DONE["kills"] += 1

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:
        if orderly:
            self.keeper.close()
        else:  # as after a kill: nothing is closed in order, and what the process knew is forgotten
            self.studio.unlock()
            workers._children.clear()
            workers._codes.clear()
        self.keeper = Keeper(self.settings)
        self.studio = self.keeper.studio
        DONE["restarts"] += 1

    @rule(number=st.integers(0, 5))
    def resume(self, number: int) -> None:
        info = self._pick(number, "stopped", "failed", "interrupted")
        if info:
            resuming.resume(self.studio, info.id)
            self.line.append(info.id)
            DONE["resumed"] += 1

    @rule(number=st.integers(0, 5), other=st.integers(0, 6))
    def reorder(self, number: int, other: int) -> None:
        waiting = [info.id for info in self._infos() if info.state == "queued"]
        moved = waiting[number % len(waiting)] if waiting else None
        before = waiting[other % len(waiting)] if waiting and other < 6 else None
        if moved is None or moved == before:
            return
        try:
            queue.reorder(self.studio, moved, before)
        except runs.Conflict:
            return  # one of the two has begun meanwhile
        self.line.remove(moved)
        self.line.insert(self.line.index(before) if before in self.line else len(self.line), moved)

    @rule(steps=st.integers(1, 40))
    def let_it_work(self, steps: int) -> None:
        info = self._pick(0, "running")
        if info:
            wait_for(
                self.studio, lambda: (now := runs.get(self.studio, info.id)).final or now.step >= info.step + steps
            )

    @invariant()
    def nothing_lies(self) -> None:
        if not hasattr(self, "studio"):
            return
        DONE["rules"] += 1
        infos = {info.id: info for info in self._infos()}
        active = [info for info in infos.values() if info.state in ACTIVE]
        assert len(active) <= 1, active
        waiting = sorted((info for info in infos.values() if info.position), key=lambda info: info.position)
        assert [info.position for info in waiting] == list(range(1, len(waiting) + 1))
        ids = [info.id for info in waiting]
        assert all(info.state == "queued" for info in waiting)
        # What still waits does so in the order it was put in.
        assert ids == [run for run in self.line if run in ids]
        # Of those that left the line, only who stood before all others was started.
        left = [run for run in self.line if run not in ids]
        for run in left:
            if infos[run].started and infos[run].state in ACTIVE:
                assert all(self.line.index(run) < self.line.index(other) for other in ids)
        self.line = ids
        for info in infos.values():
            run = self.studio.run_dir(info.id)
            if info.final:
                wait_for(self.studio, lambda run=run: not workers_of(run))
                assert info.cause and info.message
            elif info.state == "queued":
                assert not workers_of(run) and not run.claim.exists()

    def teardown(self) -> None:
        if not hasattr(self, "studio"):
            return
        try:
            for run in self.runs:
                with contextlib.suppress(runs.Conflict):
                    runs.stop(self.studio, run.id)
            for run in self.runs:
                info = wait_for_end(self.studio, run)
                assert lost_doubled_gaps(self.studio, run) == (0, 0, 0)
                assert info.state != "completed" or info.step == info.total_steps
                wait_for(self.studio, lambda run=run: not workers_of(run))
                left = [path for path in run.path.rglob("*") if path.suffix in (".tmp", ".old", ".new")]
                assert left == []
                with FileLock(run.worker_lock).acquire(timeout=0):
                    pass
            shown = runs.list_runs(self.studio)
            runs.rebuild(self.studio)
            for before, after in zip(shown, runs.list_runs(self.studio), strict=True):
                now, then = dataclasses.asdict(after), dataclasses.asdict(before)
                assert {name: (then[name], now[name]) for name in now if now[name] != then[name]} == {}
            self.keeper.close()
        finally:
            end_all(self.settings.home)
            shutil.rmtree(self.folder, ignore_errors=True)


def test_anything_in_any_order(furnished: Path) -> None:
    Machine.home = furnished
    with fake_trainer():
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=6 * TIMES,
                stateful_step_count=20,
                deadline=None,
                derandomize=True,
                # Real processes take their own time: an example cannot be replayed to be made smaller.
                phases=[Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    said("anything in any order", DONE)
    assert DONE["runs"]
