"""Child jobs: the same life for all of them, whatever they make."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.launch import workers
from studio.launch.short_tasks import Died
from studio.rundir import Exit, Identity, create
from studio.services.core import jobs
from studio.services.core.jobs import KeptJob, Progress, ShortJob
from studio.services.core.keeper import Keeper
from studio.settings import Settings

STUBBORN = "tests.torture.stubborn"


def wait_for(met: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not met():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["exports", "adapters", "evaluations"])
def test_one_that_was_cancelled_and_goes_on_is_ended_by_the_keeper(settings: Settings, kind: str) -> None:
    with Keeper(settings.model_copy(update={"stop_grace": 0.2})) as studio:
        job = KeptJob(create(getattr(studio.settings, kind), "0123456789abcdef", {}))
        job.start(STUBBORN)
        wait_for(lambda: job.look().progress == Progress("Counting", 1, 3))
        pid = Identity.read(job.folder).pid  # type: ignore[union-attr]
        job.cancel("This job")
        assert job.state == "stopping"

        def ended() -> bool:
            studio.look()
            return job.look().final

        wait_for(ended)
        assert (job.look().state, job.look().message) == (
            "stopped",
            "It did not end when it was cancelled, so it was killed.",
        )
        wait_for(lambda: workers.reap() or not Path(f"/proc/{pid}").exists())  # type: ignore[func-returns-value]
        with pytest.raises(Conflict, match="This job is already over: stopped"):
            job.cancel("This job")
        job.delete("This job")
        assert not job.folder.path.exists()


def test_one_whose_worker_vanishes_is_interrupted_and_what_it_left_goes(settings: Settings) -> None:
    settings.prepare()
    job = KeptJob(create(settings.exports, "made", {}))
    job.start(STUBBORN)
    wait_for(lambda: job.state == "running")
    with pytest.raises(Conflict, match="is not over"):
        job.delete("This job")
    half = job.folder.path / ".merged.tmp"
    half.mkdir()
    workers.signal(job.folder, 9)  # type: ignore[arg-type]
    wait_for(lambda: job.state == "interrupted")
    assert "without a message" in job.look().message and job.look().remedy == "Start it again."
    job.clear_leftovers()
    assert not half.exists()


def test_one_that_waits_is_queued_until_it_is_started_or_cancelled(settings: Settings) -> None:
    settings.prepare()
    folder = create(settings.evaluations, "waits", {})
    assert (KeptJob(folder, waits=True).state, KeptJob(folder).state) == ("queued", "interrupted")
    job = KeptJob(folder, waits=True)
    job.cancel("This job")
    assert list(jobs.cancelled_in(settings.evaluations)) == [folder]
    job.see_end(grace=60.0)
    assert (job.look().state, job.look().message) == ("stopped", "It was cancelled before it began.")
    assert list(jobs.cancelled_in(settings.evaluations)) == []


def test_one_that_cannot_be_started_has_failed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise Unavailable("The worker could not be started: no processes are left.")

    settings.prepare()
    job = KeptJob(create(settings.exports, "made", {}))
    monkeypatch.setattr(workers, "start", refuses)
    job.start(STUBBORN)
    assert Exit.read(job.folder) == Exit(
        "failed", "The worker could not be started: no processes are left.", "Free what it needs, then start it again.",
        cause="never_started", time=Exit.read(job.folder).time,  # type: ignore[union-attr]
    )  # fmt: skip


def short(folder: Path, code: str, **more: object) -> ShortJob:
    (folder / "child.py").write_text(code)
    return ShortJob("child", [], folder / "log.txt", "answer", environment={"PYTHONPATH": str(folder)}, **more)  # type: ignore[arg-type]


def test_a_short_job_tells_how_far_it_is_and_returns_its_result(tmp_path: Path) -> None:
    job = short(tmp_path, 'print(\'{"doing": "Counting", "done": 1, "of": 2}\\n{"answer": 42}\', flush=True)')
    steps: list[tuple[str, int, int]] = []
    line = jobs.drive(job.run(), lambda *step: steps.append(step))
    assert line == {"answer": 42}
    assert steps[-1] == ("Counting", 1, 2) and set(steps) <= {("Starting the worker", 0, 0), ("Counting", 1, 2)}


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ('print(\'{"error": "No such file."}\')', BadInput, "No such file."),
        ('print(\'{"error": "No network.", "unavailable": true}\')', Unavailable, "No network."),
        ("pass", StudioError, "ended without a result"),
        ('raise SystemExit("out of luck")', Died, "child failed: out of luck."),
    ],
)
def test_a_short_job_that_fails_says_why(tmp_path: Path, code: str, error: type[StudioError], says: str) -> None:
    with pytest.raises(error, match=says) as told:
        jobs.drive(short(tmp_path, code).run(), lambda *_: None)
    assert type(told.value) is error


def test_closing_a_short_job_ends_its_process(tmp_path: Path) -> None:
    code = 'import os, time; print(f\'{{"doing": "{os.getpid()}", "done": 0, "of": 0}}\', flush=True); time.sleep(600)'
    job = short(tmp_path, code).run()
    pid = next(step.doing for step in job if step.doing.isdigit())
    job.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
