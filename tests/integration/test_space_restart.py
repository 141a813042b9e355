"""A Space that is started anew, its workers gone with it: what was under way is told truly, what waited goes on."""

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from gradio_client import Client

from studio.rundir import Identity, RunDir, verify_folder
from studio.services.core.keeper import Keeper
from studio.services.models import models
from studio.settings import Settings
from tests import space
from tests.conftest import little_rows

pytestmark = pytest.mark.engine


def client(url: str, cookie: str) -> Client:
    return Client(url, headers={"Cookie": cookie}, verbose=False)


def until(ask: Callable[[], dict[str, Any]], is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while not is_so(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.3)
    return found


def test_what_trained_and_what_waited_when_a_space_was_started_anew(tiny: Path, tmp_path: Path) -> None:
    home, port = tmp_path / "home", space.free_port()
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(tiny), lambda *_: None)
    url = f"http://127.0.0.1:{port}"
    process = space.begin(home, port, {})
    try:
        with urllib.request.urlopen(url) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        mine = client(url, cookie)
        checked = mine.predict(rows=little_rows(), mapping=None, api_name="/check")
        mine.predict(check=checked["check"], name="little", api_name="/add_dataset")
        recipe = {"model": "tiny", "dataset": "little", "dtype": "float32", "r": 4}
        long = {**recipe, "max_steps": 100_000, "save_steps": 5, "eval_steps": 0}
        trains = mine.predict(recipe=long, api_name="/train")["id"]
        waits = mine.predict(recipe={**recipe, "max_steps": 2}, api_name="/train")["id"]
        until(lambda: mine.predict(id=trains, api_name="/run"), lambda run: run["step"] > 6)
        assert mine.predict(id=waits, api_name="/run")["state"] == "queued"
        worker = Identity.read(RunDir(home / "runs" / trains))
        assert worker is not None

        process.kill()  # a Space's container ends with all that is in it
        psutil.Process(worker.pid).kill()
        process.wait()
        process = space.begin(home, port, {})

        again = client(url, cookie)  # the cookie is still good
        told = until(lambda: again.predict(id=trains, api_name="/run"), lambda run: run["state"] != "running")
        assert told["state"] == "interrupted", told
        assert "after step" in told["message"] and "esume" in told["message"] + told["remedy"], told
        saved = sorted((home / "runs" / trains / "checkpoints").glob("step-*"))
        assert saved and all(verify_folder(folder) is None for folder in saved)
        done = until(lambda: again.predict(id=waits, api_name="/run"), lambda run: bool(run["final"]))
        assert done["state"] == "completed" and done["step"] == 2
        with urllib.request.urlopen(url) as answer:
            other = client(url, answer.headers["Set-Cookie"].partition(";")[0])
        assert other.predict(api_name="/runs") == []
    finally:
        process.terminate()
        process.wait(60)
