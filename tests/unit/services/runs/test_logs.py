"""No disk is filled by a log that is written without end, nor by what nobody came back for."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studio.rundir import begin_log, tail
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import checks
from studio.services.runs import logs
from studio.settings import Settings

# Writes until somebody has shortened its log, then says its last words.
_FLOOD = """
import sys
while not open(sys.argv[1], "rb").read(40).startswith(b"[what came before was left out"):
    sys.stderr.write("a warning at each step\\n" * 200)
    sys.stderr.flush()
sys.stderr.write("the last words\\n")
"""


@pytest.mark.parametrize(
    "place", ["chat.log", "cache/warm-worker.log", "exports/x/log.txt", "evaluations/x/log.txt", "adapters/x/log.txt",
              "exports/x/llama.log", "staging/x/log.txt", "staging/x.log"],
)  # fmt: skip
def test_a_log_is_shortened_while_it_is_written(
    place: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2**16
    monkeypatch.setattr(logs, "MOST", most)
    monkeypatch.setattr(logs, "KEPT", most // 8)
    log = settings.prepare().home / place
    log.parent.mkdir(exist_ok=True)
    with Keeper(settings).start(), begin_log(log) as errors:
        writer = subprocess.Popen([sys.executable, "-c", _FLOOD, str(log)], stderr=errors)
        assert writer.wait() == 0
        assert tail(log, 100).endswith("the last words\n")


def test_the_workers_logs_are_the_ones_that_are_bounded(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's words are appended, so that cutting what it wrote before leaves no hole."""
    monkeypatch.setattr(logs, "MOST", 100)
    monkeypatch.setattr(logs, "KEPT", 50)
    for log in (logs.chat_log(studio), logs.warm_log(studio)):
        log.write_text("of an earlier worker\n")
        with begin_log(log) as errors:
            for _ in range(3):
                os.write(errors.fileno(), b"a line of words\n" * 20)
                logs.look(studio)
                assert log.stat().st_size < 200 and b"\0" not in log.read_bytes()
        assert b"earlier worker" not in log.read_bytes()


def test_uploads_and_checks_that_nobody_came_back_for_go(studio: Studio) -> None:
    settings = studio.settings
    kept: list[Path] = []
    for place, hours in ((settings.uploads, 2), (settings.staging, 25), (settings.cache / "hub", 25)):
        for name, age in (("old", hours), ("new", hours / 3)):
            folder = place / name
            folder.mkdir(parents=True)
            (folder / "examples.jsonl").write_text("{}")
            then = time.time() - age * 3600
            os.utime(folder, (then, then))
            kept += [folder] if name == "new" else []
    checks.clean_up(studio)
    left = [path for place in (settings.uploads, settings.staging, settings.cache / "hub") for path in place.iterdir()]
    assert sorted(left) == sorted(kept)


def test_the_keeper_cleans_up_while_the_studio_lives(settings: Settings) -> None:
    keeper = Keeper(settings)
    with keeper:
        old = settings.staging / "0123"
        old.mkdir()
        os.utime(old, (0, 0))
        keeper.start()
        while old.exists():
            time.sleep(0.05)
