"""The machine view: samples with honest gaps, whose memory it is, and nothing of another user's runs."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from studio.cli import app as cli
from studio.machine import usage as facts
from studio.rundir import Identity, boot_id, process_started
from studio.services.core.studio import Studio
from studio.services.host import usage
from studio.store import runs as rows
from studio.ui.web.server import make_app
from tests.unit.services.core.test_keeper import make_run

HELD = 120 * 2**20


@pytest.fixture
def trainer(studio: Studio) -> Iterator[int]:
    """A process that holds 120 MiB and passes for the worker of run-1."""
    code = f"import sys; held = b'x' * {HELD}; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "--nonce", "n" * 16]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def working(studio: Studio, pid: int, owner: str) -> None:
    run = make_run(studio, "secret-plans", owner=owner)
    started = process_started(pid)
    assert started is not None
    Identity(pid, started, boot_id(), "n" * 16).write(run)
    studio.refresh()
    rows.update(studio.database, "secret-plans", state="running")


def test_a_trainer_is_named_and_told_from_the_studio(studio: Studio, trainer: int) -> None:
    working(studio, trainer, studio.owner)
    found = {one.kind: one for one in usage.look(studio).holders}
    assert (found["trainer"].name, found["trainer"].run) == ("secret-plans", "secret-plans")
    assert HELD <= found["trainer"].memory < HELD + 60 * 2**20
    assert found["studio"].memory > 2**20 and found["other"].memory >= 0
    # Other tests may have left processes beside; the trainer is not counted among them.
    beside = [one for one in psutil.Process().children(recursive=True) if one.pid != trainer]
    assert "child" not in found or found["child"].memory < sum(one.memory_info().rss for one in beside) + HELD // 2


def test_another_users_training_has_neither_name_nor_id(studio: Studio, trainer: int) -> None:
    working(studio, trainer, "someone else")
    with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
        answer = client.get("/machine")
    assert "secret-plans" not in answer.text and "someone else" not in answer.text.replace('"someone else"', "")
    (one,) = [one for one in answer.json()["holders"] if one["kind"] == "trainer"]
    assert one["name"] == "another user's training" and one["run"] == "" and one["memory"] >= HELD


def test_what_the_studio_started_beside_is_its_own(studio: Studio, trainer: int) -> None:
    found = {one.kind: one for one in usage.look(studio).holders}
    assert "trainer" not in found and found["child"].memory >= HELD


def test_samples_come_every_five_seconds_are_kept_an_hour_and_show_gaps(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(usage.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(usage.time, "time", lambda: clock[0])
    monkeypatch.setattr(
        usage.facts, "sample", lambda folder: usage.Sample(clock[0], 0.5, 1, 2, 3, 4) if folder else None
    )
    for step in range(2 * 8000):
        clock[0] = 1000.0 + step / 2  # as often as the keeper looks
        if not 12000 < step < 12200:
            usage.sample_if_due(studio)
    times = [one.time for one in usage.look(studio).samples]
    assert times[0] > clock[0] - 3600 and times[-1] > clock[0] - 5
    steps = {round(b - a, 1) for a, b in itertools.pairwise(times)}
    assert min(steps) == 5 and max(steps) == 100 and len(times) == pytest.approx(720 - 19, abs=2)
    assert [one.time for one in usage.look(studio, times[-3]).samples] == times[-2:]


def test_the_keeper_looks_by_itself(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "EVERY", 1e-9)
    usage.sample_if_due(studio)
    usage.sample_if_due(studio)
    usage.sample_if_due(studio)
    found = usage.look(studio).samples
    assert found and 0 <= found[-1].cpu <= 1 and 0 < found[-1].memory_used < found[-1].memory_total
    assert 0 < found[-1].disk_used < found[-1].disk_total
    assert (found[-1].gpu_total is None) == (found[-1].gpu_used is None)
    assert "/machine" in {getattr(route, "path", "") for route in make_app(studio).routes}


def test_a_process_counts_for_the_nearest_named_one_above(trainer: int) -> None:
    found = facts.held_by({os.getpid(): "studio", trainer: "trainer"})
    assert found["trainer"].processes == 1 and found["studio"].processes >= 1
    gone = max(psutil.pids()) + 1000
    assert facts.held_by({gone: "gone"})["gone"].processes == 0
    assert facts.held_by({}) == {}


def test_the_command_tells_the_same(studio: Studio) -> None:
    home = str(studio.settings.home)
    told = json.loads(CliRunner().invoke(cli.app, ["--home", home, "machine", "--json"]).stdout)
    assert told["memory_total"] > told["memory_used"] > 0 and told["holders"][0]["memory"] > 0
    assert "GiB" in CliRunner().invoke(cli.app, ["--home", home, "machine"]).stdout
