"""The keeper: states that never lie, metric points that are neither lost nor doubled, an index that can be lost."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.errors import Conflict, NotFound, Unavailable
from studio.recipe import Recipe
from studio.rundir import Beat, Exit, Identity, Journal, RunDir, boot_id, process_started, write_json
from studio.services.core import rounds
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.runs import runs
from studio.settings import Settings

RECIPE = Recipe().with_values({"name": "by hand", "dataset": "little"})


def make_run(studio: Studio, name: str = "run-1", owner: str = "local") -> RunDir:
    """A run directory as another machine may have left it: nothing started it here."""
    run = RunDir(studio.settings.runs / name)
    (run.path / "control").mkdir(parents=True)
    run.recipe.write_text(RECIPE.to_yaml())
    write_json(run.about, {"name": name, "owner": owner, "created": 1000.0})
    write_json(run.dataset, {"id": "d" * 64, "name": "little"})
    return run


def journal_of(run: RunDir, steps: int) -> None:
    with Journal(run.events) as journal:
        journal.write("state", state="running")
        journal.write("plan", total_steps=steps, device="CPU")
        for step in range(1, steps + 1):
            journal.write("metric", step=step, loss=3.0 / step, tokens_per_s=100.0, step_seconds=0.5)
        journal.write("eval", step=steps, eval_loss=0.5)


@pytest.fixture
def worker(studio: Studio) -> Iterator[tuple[RunDir, "subprocess.Popen[bytes]"]]:
    """A run whose worker is alive: a process that only waits, under a true identity."""
    run = make_run(studio)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "--nonce", "n1"],
                               start_new_session=True)  # fmt: skip
    started = process_started(process.pid)
    assert started is not None
    Identity(process.pid, started, boot_id(), "n1").write(run)
    write_json(run.claim, {"nonce": "n1", "time": time.time(), "boot_id": boot_id()})
    yield run, process
    process.kill()
    process.wait()


def ended(run: RunDir, state: str = "completed") -> None:
    Exit(state, "It ended.").write(run)  # type: ignore[arg-type]


def test_a_finished_run_copied_here_is_a_complete_record(studio: Studio) -> None:
    run = make_run(studio)
    journal_of(run, 20)
    ended(run)
    info = runs.get(studio, "run-1")
    assert (info.state, info.step, info.total_steps, info.eval_loss) == ("completed", 20, 20, 0.5)
    found = runs.points(studio, "run-1")
    assert [point["step"] for point in found.metrics] == list(range(1, 21))
    assert [point["loss"] for point in found.metrics] == [3.0 / step for step in range(1, 21)]
    assert runs.points(studio, "run-1", found.after).metrics == []


def test_the_same_journal_taken_in_twice_changes_nothing(studio: Studio) -> None:
    from studio.store import ingest
    from studio.store import runs as rows

    run = make_run(studio)
    journal_of(run, 5)
    ended(run)
    before = runs.points(studio, "run-1")
    rows.update(studio.database, "run-1", offset=0)
    ingest.ingest(studio.database, run)
    rows.update(studio.database, "run-1", offset=0, last_seq=0)
    ingest.ingest(studio.database, run)
    assert runs.points(studio, "run-1") == before


def test_rebuilding_the_index_gives_the_same_runs(studio: Studio) -> None:
    for number in range(3):
        run = make_run(studio, f"run-{number}")
        journal_of(run, 4 + number)
        ended(run)
    before = runs.list_runs(studio)
    assert runs.rebuild(studio) == 3
    assert runs.list_runs(studio) == before


@pytest.mark.parametrize("damage", ["deleted", "truncated", "overwritten"])
def test_losing_the_database_loses_nothing(settings: Settings, damage: str) -> None:
    with Keeper(settings) as studio:
        run = make_run(studio)
        journal_of(run, 6)
        ended(run)
        before = runs.list_runs(studio)
    path = settings.database
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"not a database at all" * 400)
    with Keeper(settings) as studio:
        assert runs.list_runs(studio) == before
        assert (studio.database.set_aside is not None) == (damage != "deleted")


def test_a_living_worker_is_what_it_says(studio: Studio, worker: tuple[RunDir, "subprocess.Popen[bytes]"]) -> None:
    run, process = worker
    assert runs.get(studio, run.id).state == "starting"
    journal_of(run, 3)
    assert runs.get(studio, run.id).state == "running"
    Beat(time.time(), time.time() - 10_000, 3).write(run)
    assert runs.get(studio, run.id).state == "stalled"
    process.kill()
    process.wait()
    info = runs.get(studio, run.id)
    assert info.state == "interrupted" and "after step 3" in info.message and info.remedy


@pytest.mark.parametrize("lie", ["pid", "started", "boot_id", "nonce"])
def test_another_process_is_not_taken_for_the_worker(
    studio: Studio, worker: tuple[RunDir, "subprocess.Popen[bytes]"], lie: str
) -> None:
    run, process = worker
    told = {"pid": process.pid, "started": process_started(process.pid), "boot_id": boot_id(), "nonce": "n1"}
    told[lie] = {"pid": 2**22, "started": 1.0, "boot_id": "another boot", "nonce": "another"}[lie]
    write_json(run.worker, told)
    assert runs.get(studio, run.id).state == "interrupted"
    assert process.poll() is None


def test_a_worker_that_does_not_stop_is_ended(settings: Settings) -> None:
    with Keeper(Settings(home=settings.home, stop_grace=0.0)) as studio:
        run = make_run(studio)
        code = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        )
        process = subprocess.Popen([sys.executable, "-c", code, "n1"], start_new_session=True, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        Identity(process.pid, process_started(process.pid) or 0, boot_id(), "n1").write(run)
        rounds.look_round(studio)
        run.ask("stop")
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            rounds.look_round(studio)
        assert process.returncode == -9
        info = runs.get(studio, run.id)
        assert info.state == "stopped" and "did not stop within" in info.message


def test_a_run_that_waits_is_stopped_at_once(studio: Studio, worker: tuple[RunDir, object]) -> None:
    waiting = make_run(studio, "run-2")
    assert runs.get(studio, "run-2").state == "queued"
    runs.stop(studio, "run-2")
    info = runs.get(studio, "run-2")
    assert info.state == "stopped" and "before it began" in info.message
    assert not waiting.claim.exists()
    with pytest.raises(Conflict, match="already over: stopped"):
        runs.stop(studio, "run-2")


def test_a_worker_that_never_spoke_is_a_failure(studio: Studio) -> None:
    run = make_run(studio)
    write_json(run.claim, {"nonce": "n", "time": time.time() - 3600, "boot_id": boot_id(), "pid": 2**22})
    info = runs.get(studio, run.id)
    assert info.state == "failed" and "never started" in info.message


def test_runs_of_others_are_not_there(studio: Studio) -> None:
    run = make_run(studio, "theirs", owner="somebody")
    journal_of(run, 2)
    ended(run)
    assert runs.list_runs(studio) == []
    for ask in (runs.get, runs.points, runs.stop, runs.log_tail, runs.recipe_yaml):
        with pytest.raises(NotFound):
            ask(studio, "theirs")


@pytest.mark.parametrize("name", ["", "..", "../runs", "nothing", "run%", ".", "/etc"])
def test_an_id_that_names_no_run_is_refused(studio: Studio, name: str) -> None:
    with pytest.raises(NotFound):
        runs.get(studio, name)


def test_one_home_has_one_keeper(settings: Settings) -> None:
    with Keeper(settings) as first:
        run = make_run(first)
        journal_of(run, 2)
        ended(run)
        first.refresh()
        other = Keeper(settings)
        with other as second:
            assert first.keeping and not second.keeping
            assert runs.get(second, "run-1").state == "completed"
            with pytest.raises(Unavailable, match="already looking after"):
                other.start()
            with pytest.raises(Conflict, match="Another studio keeps"):
                runs.rebuild(second)
    with Keeper(settings) as third:
        assert third.keeping


def test_a_run_directory_that_vanished_is_said(studio: Studio, worker: tuple[RunDir, object], tmp_path: Path) -> None:
    run, _ = worker
    studio.refresh()
    run.path.rename(tmp_path / "elsewhere")
    assert "moved or deleted" in runs.get(studio, run.id).message


def test_the_keeper_goes_on_when_no_worker_can_be_kept_ready(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with a convenience must not end the keeping of runs."""
    tried = threading.Semaphore(0)

    def broken(_studio: Studio) -> None:
        tried.release()
        raise RuntimeError("the database is locked")

    monkeypatch.setattr("studio.services.host.warm.tend", broken)
    with Keeper(settings).start():
        for _ in range(3):
            assert tried.acquire(timeout=30)
