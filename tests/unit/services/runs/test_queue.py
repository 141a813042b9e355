"""The queue and going on: order, exactly one at a time, resumed runs that are the same run, adoption, the webhook."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from studio.errors import BadInput, Conflict
from studio.launch import workers
from studio.rundir import Identity, RunDir, read_json, write_json
from studio.services.core import rounds
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.host import machine
from studio.services.runs import attempts, checkpoint_limit, queue, resuming, runs
from studio.settings import Settings
from tests.torture.house import lost_doubled_gaps, new_run, wait_for, wait_for_end, workers_of

pytestmark = pytest.mark.slow

SLOW = {"steps": 100_000, "delay": 0.005, "save": 10}


def names(studio: Studio) -> list[str]:
    """The line, the next to start first."""
    found = [info for info in runs.list_runs(studio) if info.position]
    assert sorted(info.position for info in found) == list(range(1, len(found) + 1))
    return [info.name for info in sorted(found, key=lambda info: info.position)]


@pytest.fixture
def line(home: Settings) -> Iterator[tuple[Studio, dict[str, RunDir]]]:
    """One run that trains, and a, b, c, d that wait."""
    with Keeper(home) as studio:
        running = new_run(studio, "running", **SLOW)
        wait_for(studio, lambda: runs.get(studio, running.id).step > 0)
        yield studio, {"running": running} | {name: new_run(studio, name) for name in "abcd"}


def test_the_order_is_as_moved_and_survives_the_database(line: tuple[Studio, dict[str, RunDir]]) -> None:
    studio, made = line
    assert names(studio) == list("abcd")
    assert queue.first(studio, made["c"].id).position == 1
    assert names(studio) == list("cabd")
    queue.reorder(studio, made["d"].id, before=made["b"].id)
    assert names(studio) == list("cadb")
    queue.reorder(studio, made["c"].id)
    assert names(studio) == list("adbc")
    for _ in range(26):  # between the same two again and again, until numbers no longer tell them apart
        queue.reorder(studio, names_to_id(made, names(studio)[2]), before=names_to_id(made, names(studio)[1]))
    assert names(studio) == list("adbc")
    runs.rebuild(studio)
    assert names(studio) == list("adbc")
    runs.cancel(studio, made["d"].id)
    info = runs.get(studio, made["d"].id)
    assert (info.state, info.position, info.message) == ("stopped", 0, "It was stopped before it began.")
    assert names(studio) == list("abc")
    runs.stop(studio, made["running"].id)
    ends = [wait_for_end(studio, made[name]) for name in "abc"]
    assert [info.state for info in ends] == ["completed"] * 3
    assert sorted(ends, key=lambda info: info.started or 0) == ends


def names_to_id(made: dict[str, RunDir], name: str) -> str:
    return made[name].id


def test_what_cannot_be_moved_is_said(line: tuple[Studio, dict[str, RunDir]]) -> None:
    studio, made = line
    with pytest.raises(Conflict, match="is not waiting: it is running"):
        queue.first(studio, made["running"].id)
    with pytest.raises(BadInput, match="before itself"):
        queue.reorder(studio, made["a"].id, made["a"].id)


def test_start_now_is_granted_by_memory(
    line: tuple[Studio, dict[str, RunDir]], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, made = line
    write_json(made["b"].path / "estimate.json", {"predicted_bytes": 2**50})
    with pytest.raises(Conflict, match=r"Not enough memory: 1048\d{3}\.\d GiB short\. It stays in the queue"):
        queue.start_now(studio, made["b"].id)
    assert names(studio) == list("abcd")
    queue.start_now(studio, made["c"].id)
    assert wait_for_end(studio, made["c"]).state == "completed"
    assert runs.get(studio, made["running"].id).state == "running" and names(studio) == list("abd")


def test_a_dry_run_holds_the_queue(home: Settings) -> None:
    with Keeper(home) as studio:
        with FileLock(home.dry_run_lock):
            run = new_run(studio)
            for _ in range(3):
                studio.refresh()
            assert runs.get(studio, run.id).state == "queued" and not run.claim.exists()
        assert wait_for_end(studio, run).state == "completed"


def test_a_killed_run_goes_on_as_the_same_run(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, steps=60, delay=0.002, save=10, end="signal9", at=37)
        assert wait_for_end(studio, run).resume_hint == "It continues from the checkpoint of step 30."
        write_json(run.path / "fake.json", {"steps": 60, "save": 10})
        before = runs.points(studio, run.id)
        info = resuming.resume(studio, run.id)
        assert (info.attempt, info.final, info.cause) == (2, False, "") and info.state in ("queued", "starting")
        info = wait_for_end(studio, run)
        assert (info.state, info.step, info.attempt, info.cause) == ("completed", 60, 2, "finished")
        assert lost_doubled_gaps(studio, run) == (0, 0, 0)
        news = runs.points(studio, run.id, before.after)
        (mark,) = [mark for mark in news.marks if mark["kind"] == "resumed"]
        assert mark["step"] == 30 and [point["step"] for point in news.metrics] == list(range(31, 61))
        whole = runs.points(studio, run.id)
        runs.rebuild(studio)
        assert runs.points(studio, run.id) == whole and runs.get(studio, run.id) == info
        (earlier,) = attempts.earlier(run)
        assert sorted(path.name for path in earlier.path.iterdir()) == [
            "claim.json", "ended.json", "heartbeat", "worker.json"
        ]  # fmt: skip


def test_a_damaged_checkpoint_is_passed_over(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, save=10, end="signal9", at=17)
        wait_for_end(studio, run)
        (run.checkpoints / "step-10" / "weights").write_bytes(b"bad")
        write_json(run.path / "fake.json", {})
        resuming.resume(studio, run.id)
        assert (read_json(run.resume) or {})["checkpoint"] == ""
        assert wait_for_end(studio, run).state == "completed"
        assert lost_doubled_gaps(studio, run) == (0, 0, 0)


def test_extending_adds_to_what_was_meant(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio)
        wait_for_end(studio, run)
        with pytest.raises(Conflict, match="--epochs 1"):
            resuming.resume(studio, run.id)
        resuming.extend(studio, run.id, steps=15)
        info = wait_for_end(studio, run)
        assert (info.state, info.step, info.total_steps) == ("completed", 35, 35)
        with pytest.raises(Conflict, match="measured in steps"):
            resuming.extend(studio, run.id, epochs=1)
        for nothing in ({}, {"epochs": 1, "steps": 1}, {"steps": 0}, {"epochs": -1}):
            with pytest.raises(BadInput, match="how much longer"):
                resuming.extend(studio, run.id, **nothing)  # type: ignore[arg-type]
        assert lost_doubled_gaps(studio, run) == (0, 0, 0)
        other = new_run(studio)
        wait_for_end(studio, other)
        resuming.extend(studio, other.id, epochs=2)
        meant = runs.recipe_of(studio, other.id).schedule.num_train_epochs
        assert (read_json(other.resume) or {})["num_train_epochs"] == meant + 2


def test_what_would_not_be_the_same_training_is_refused(home: Settings, tmp_path: Path) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, end="signal9", at=7)
        wait_for_end(studio, run)
        identity = Identity.read(run)
        assert identity is not None
        told = read_json(run.worker) or {}
        write_json(run.worker, told | {"versions": {"torch": "1.13.1", "peft": "0.0.1"}})
        with pytest.raises(Conflict, match=r"torch 1.13.1, now .*peft 0.0.1.*--force"):
            resuming.resume(studio, run.id)
        model = read_json(run.path / "model.json") or {}
        write_json(run.path / "model.json", model | {"fingerprint": {"architecture": "other", "parameters": 1}})
        with pytest.raises(Conflict, match="not the model it started with"):
            resuming.resume(studio, run.id, force=True)
        write_json(run.path / "model.json", model)
        pointer = read_json(run.dataset) or {}
        write_json(run.dataset, pointer | {"sha256": "0" * 64})
        with pytest.raises(Conflict, match="not those it started with"):
            resuming.resume(studio, run.id, force=True)
        write_json(run.dataset, pointer)
        folder = home.datasets / pointer["id"]
        folder.rename(tmp_path / "gone")
        with pytest.raises(Conflict, match="no longer here"):
            resuming.resume(studio, run.id, force=True)
        (tmp_path / "gone").rename(folder)
        write_json(run.path / "fake.json", {})
        resuming.resume(studio, run.id, force=True)
        with pytest.raises(Conflict, match="is not over"):
            resuming.resume(studio, run.id)
        assert wait_for_end(studio, run).state == "completed"


def test_a_stop_that_came_too_late_does_not_stop_the_next_worker(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, steps=50, end="wait", at=7)
        wait_for(studio, lambda: runs.get(studio, run.id).step == 7)
        run.ask("stop")
        (pid,) = workers_of(run)
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(studio, run).state == "interrupted"
        write_json(run.path / "fake.json", {"steps": 50})
        resuming.resume(studio, run.id)
        assert wait_for_end(studio, run).state == "completed"


def test_a_move_of_files_that_was_cut_short_is_finished(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, end="signal9", at=7)
        before = wait_for_end(studio, run)
        write_json(run.path / "fake.json", {})
        moved: list[Path] = []
        replace = Path.replace

        def cut_short(path: Path, target: Path) -> Path:
            if len(moved) == 2 and ".tmp" in str(target.parent.name):
                raise KeyboardInterrupt
            moved.extend([path] if ".tmp" in str(target.parent.name) else [])
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", cut_short)
        with pytest.raises(KeyboardInterrupt):
            resuming.resume(studio, run.id)
        monkeypatch.setattr(Path, "replace", replace)
        with studio.database.read() as session:
            from studio.store.tables import Run

            assert session.get_one(Run, run.id).state == before.state
        info = wait_for_end(studio, run)
        assert (info.state, info.attempt) == ("completed", 2)
        assert len(list((attempts.earlier(run)[0]).path.iterdir())) == 4


def test_many_launchers_claim_a_run_once(home: Settings) -> None:
    with Keeper(home) as studio:
        waiting = [new_run(studio, steps=3) for _ in range(4)]
    code = (
        "import sys; from pathlib import Path; from studio.rundir import RunDir; from studio.launch import workers\n"
        "sys.stdin.readline()\n"
        "print(sum(workers.start(RunDir(Path(p)), 'tests.torture.worker') is not None for p in sys.argv[1:]))"
    )
    paths = [str(run.path) for run in waiting]
    racers = [
        subprocess.Popen([sys.executable, "-c", code, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert sum(int(racer.communicate(timeout=60)[0]) for racer in racers) == len(waiting)


STUDIO = """
import sys, time
from pathlib import Path
from studio.services.core import rounds
from studio.services.core.keeper import Keeper
from studio.settings import Settings
rounds.TRAINER = "tests.torture.worker"
with Keeper(Settings(home=Path(sys.argv[1]), offline=True)).start() as studio:
    print("kept", flush=True)
    time.sleep(600)
"""


def test_a_killed_studio_finds_its_workers_again(home: Settings) -> None:
    def begin() -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", STUDIO, str(home.home)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "kept\n"
        return process

    first = begin()
    with Keeper(home) as reader:
        assert not reader.keeping
        run = new_run(reader, **SLOW)
        wait_for(reader, lambda: runs.get(reader, run.id).step > 3)
        (worker,) = workers_of(run)
        serve = [sys.executable, "-m", "studio", "--home", str(home.home), "serve", "--port", "0"]
        done = subprocess.run(serve, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1 and "already looking after" in done.stderr
        first.kill()
        first.wait()
        assert workers_of(run) == [worker]
        known = runs.get(reader, run.id).step
        second = begin()
        wait_for(reader, lambda: runs.get(reader, run.id).step > known)
        assert workers_of(run) == [worker] and runs.get(reader, run.id).state == "running"
        runs.stop(reader, run.id)
        info = wait_for_end(reader, run)
        assert (info.state, info.attempt) == ("stopped", 1) and lost_doubled_gaps(reader, run) == (0, 0, 0)
        second.kill()
        second.wait()
    assert workers_of(run) == []


class Listener:
    """A server that counts what it is told; `answers` are the statuses it gives, the last one for good."""

    def __init__(self, *answers: int) -> None:
        self.heard: list[dict[str, Any]] = []
        listener = self
        left = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.heard.append(json.loads(body))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def told(home: Settings, url: str, **fake: Any) -> RunDir:
    with Keeper(Settings(home=home.home, offline=True, webhook_url=url)) as studio:
        run = new_run(studio, "heard of", **fake)
        wait_for_end(studio, run)
    return run


def test_the_webhook_is_told_once_of_each_end(home: Settings) -> None:
    listener = Listener(503, 200)
    run = told(home, listener.url, end="signal9", at=7)
    assert len(listener.heard) == 2 and listener.heard[0] == listener.heard[1]  # the second try
    body = listener.heard[0]
    assert (body["run"], body["end"], body["name"], body["step"]) == (run.id, f"{run.id}/1", "heard of", 7)
    assert (body["state"], body["cause"]) == ("interrupted", "killed") and "after step 7" in body["message"]
    home.database.unlink()
    write_json(run.path / "fake.json", {})
    with Keeper(Settings(home=home.home, offline=True, webhook_url=listener.url)) as studio:
        runs.rebuild(studio)
        assert len(listener.heard) == 2
        resuming.resume(studio, run.id)
        wait_for_end(studio, run)
    assert [body["end"] for body in listener.heard[2:]] == [f"{run.id}/2"]
    assert listener.heard[2]["state"] == "completed"
    listener.server.shutdown()


def test_a_webhook_that_nobody_hears_harms_nothing(home: Settings) -> None:
    run = told(home, "http://127.0.0.1:9/nobody")
    assert (read_json(run.ended) or {})["told"].startswith("not delivered")
    with pytest.raises(BadInput, match="must begin with http"):
        Keeper(Settings(home=home.home, webhook_url="file:///etc/passwd"))


def test_checkpoints_keep_within_their_budget(home: Settings) -> None:
    with Keeper(home) as studio:
        run = new_run(studio, steps=50, save=5)
        wait_for_end(studio, run)
        sizes = [one.bytes for one in checkpoint_limit.checkpoints(run)]
        assert (
            len(sizes) == 10
            and checkpoint_limit.taken(run) == sum(sizes)
            and checkpoint_limit.prune(studio, run.id) == []
        )
        write_json(
            run.checkpoints / "step-50" / "trainer_state.json",
            {"log_history": [{"step": 10, "eval_loss": 0.1}, {"step": 45, "eval_loss": 0.2}]},
        )
        (run.checkpoints / "step-45" / "weights").write_bytes(b"bad")
    tight = Settings(home=home.home, offline=True, checkpoint_gb=2.9 * sizes[0] / 2**30)
    with Keeper(tight) as studio:
        assert checkpoint_limit.prune(studio, run.id) == [5, 15, 20, 25, 30, 35, 40]
        assert [one.step for one in checkpoint_limit.checkpoints(run)] == [10, 45, 50]


def test_nothing_is_left_to_chance_in_memory(home: Settings) -> None:
    """What is free and not spoken for by what runs."""
    with Keeper(home) as studio:
        running = new_run(studio, **SLOW)
        wait_for(studio, lambda: runs.get(studio, running.id).step > 0)
        waiting = new_run(studio)
        studio.refresh()
        from studio.store import runs as rows

        row, busy = rows.get(studio.database, waiting.id), rows.get(studio.database, running.id)
        write_json(waiting.path / "estimate.json", {"predicted_bytes": 0})
        alone = queue.lacking(studio, row, [busy])
        now = machine.look(studio)
        write_json(running.path / "estimate.json", {"predicted_bytes": now.device_total})
        assert queue.lacking(studio, row, [busy]) > alone + now.device_total // 2
        assert queue.lacking(studio, row, []) == 0
        assert rounds.TRAINER == "tests.torture.worker" and workers.find(running) == "alive"
