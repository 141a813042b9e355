"""A training worker that waits for its run: taken by the next one, gone when nobody wants it."""

import time
from collections.abc import Callable

import pytest

from studio.launch import workers
from studio.launch.idle_worker import IdleWorker
from studio.recipe import Recipe
from studio.rundir import Exit, Identity, RunDir, read_events
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.host import usage, warm
from studio.services.host.warm import WarmWorker
from studio.services.runs import runs

pytestmark = pytest.mark.engine
LITTLE = {"model": "tiny", "dataset": "little", "max_steps": 3, "dtype": "float32", "held_out": 0.2, "eval_steps": 2}


def wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def waiting(studio: Studio) -> IdleWorker:
    """The worker that waits once someone has looked at the form."""
    warm.expect(studio)
    warm.tend(studio)
    spare = studio.state(WarmWorker).spare
    assert spare is not None
    wait(lambda: spare.ready)
    return spare


def trained(studio: Studio) -> RunDir:
    run = studio.run_dir(runs.start(studio, Recipe().with_values(LITTLE)).id)
    wait(lambda: Exit.read(run))
    studio.look()
    assert runs.get(studio, run.id).state == "completed"
    return run


def losses(run: RunDir) -> list[object]:
    return [event.payload.get("loss") for event in read_events(run.events).events if event.kind == "metric"]


def test_a_run_takes_the_worker_that_waits_and_is_the_same_run(ready: Studio) -> None:
    cold = trained(ready)
    spare = waiting(ready)
    run = trained(ready)
    told = Identity.read(run)
    assert told is not None and told.pid == spare.process.pid and told.nonce == spare.nonce
    assert len(losses(run)) == 3 and losses(run) == losses(cold)
    assert "Loading the model" in run.log.read_text()
    assert spare.process.wait(60) == 0 and ready.state(WarmWorker).spare is None


def test_it_leaves_with_its_studio(keeper: Keeper, ready: Studio) -> None:
    spare = waiting(ready)
    assert "a worker ready for the next run" in [one.name for one in usage.now(ready, 0).holders]
    assert spare.process.stdin is not None
    spare.process.stdin.close()  # what a studio that dies leaves behind
    assert spare.process.wait(60) == 0
    warm.tend(ready)
    assert ready.state(WarmWorker).spare is None

    spare = waiting(ready)
    keeper.close()
    assert spare.process.poll() is not None


def test_it_is_let_go_when_it_is_not_wanted(ready: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = waiting(ready)
    ready.state(WarmWorker).wanted -= ready.settings.warm_seconds
    warm.tend(ready)
    assert ready.state(WarmWorker).spare is None and not spare.alive

    spare = waiting(ready)
    monkeypatch.setattr(warm, "LEAST_FREE", 2**60)
    warm.tend(ready)
    assert ready.state(WarmWorker).spare is None and not spare.alive


def test_one_that_is_gone_or_not_yet_ready_is_not_waited_for(ready: Studio) -> None:
    gone = waiting(ready).process
    gone.kill()
    gone.wait()
    assert ready.state(WarmWorker).take() is None

    warm.expect(ready)
    warm.tend(ready)  # begun a moment ago: it has imported nothing yet
    half = ready.state(WarmWorker).spare
    run = trained(ready)
    assert half is not None and not half.alive

    # Nor does a run that has its worker already take another.
    spare = waiting(ready)
    assert workers.start(run, "studio.engine.workers.train", 0, spare) is None
    assert not spare.alive
