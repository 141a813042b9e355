"""A token that is typed into the page: where it is while it is used, and that it is nowhere afterwards."""

import contextlib
import json
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Error, Page, Request, expect

from studio.services.core.keeper import Keeper
from studio.services.models import models
from studio.settings import Settings
from tests.artefacts import adapter_run
from tests.e2e.conftest import Served
from tests.hub import TOKEN, served
from tests.security.test_secrets import KEY, held
from tests.unit.services.exports.test_publishing import exported

pytestmark = [pytest.mark.browser, pytest.mark.engine]
WORKS = 600_000  # ms; a worker imports torch, and a busy machine is no failure


@pytest.fixture
def home(little_home: Path, tiny: Path, tmp_path: Path) -> Path:
    """A home with an export to publish, and a model that no library can build."""
    broken = shutil.copytree(tiny, tmp_path / "broken")
    told = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(told | {"hidden_act": "no-such-thing"}))
    with Keeper(Settings(home=little_home, offline=True)) as studio:
        models.add(studio, str(broken), lambda *_: None)
        exported(studio)
    adapter_run(little_home / "runs" / "one", tiny)  # where there is nothing to export, no exports are shown
    return little_home


class Watch:
    """Command lines and environments of a studio and of all that it starts, looked at again and again."""

    def __init__(self, pid: int) -> None:
        self.commands: set[str] = set()
        self.told: set[str] = set()  # commands of processes that have the token in their environment
        self._studio, self._over = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            with contextlib.suppress(psutil.Error):
                for one in (self._studio, *self._studio.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        command = " ".join(one.cmdline())
                        self.commands.add(command)
                        if TOKEN in str(one.environ()):
                            self.told.add(command)

    def close(self) -> None:
        self._over.set()
        self._thread.join(30)


def api(served: Served, name: str, *data: object) -> dict[str, object]:
    request = urllib.request.Request(
        f"{served.url}/gradio_api/run/{name}", json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read())["data"][0])


def test_a_token_that_was_typed_stays_nowhere(
    page: Page, home: Path, start: Callable[[Path], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is typed and sent to a hub that falls over and says it back; meanwhile a run fails with a traceback."""
    finished: list[Request] = []  # of a stream that goes on there is no body to wait for
    page.on("requestfinished", lambda request: finished.append(request))
    with served() as hub:
        hub.holds, hub.fails = threading.Event(), {"/commit/main": 500}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("STUDIO_OFFLINE", "0")
        monkeypatch.setenv("STUDIO_JUDGE_KEY", KEY)
        studio = start(home)
        watch = Watch(studio.process.pid)
        page.goto(f"{studio.url}/?tab=export")
        page.locator("#exports-done section").get_by_role("button", name="Publish").click(timeout=WORKS)
        name = page.locator("#publish-repo input, #publish-repo textarea").first
        expect(name).to_have_value(re.compile("merged$"))
        name.fill("me/sums")
        expect(page.locator("#publish-what")).to_contain_text("/me/sums")
        page.locator("#publish-token input").fill(TOKEN)
        page.locator("#publish-go").click()
        assert hub.sending.wait(600), "nothing was sent"

        # The token is at work in a process; a run begins beside it.
        recipe = {"model": "broken", "dataset": "little", "dtype": "float32", "max_steps": 2}
        run = str(api(studio, "train", recipe)["id"])
        while (state := api(studio, "run", run)["state"]) not in ("failed", "completed"):
            assert state in ("queued", "starting", "running")
            time.sleep(0.3)
        hub.holds.set()
        expect(page.locator("#publish-notice")).to_contain_text("status 500", timeout=WORKS)
        watch.close()
        expect(page.locator("#publish-token input")).to_have_value("")
        assert hub.tokens == {TOKEN} and "POST /api/models/me/sums/commit/main" in hub.asked

        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        shown = page.content() + page.evaluate(kept) + page.locator("body").inner_text()
        answers = [answer for request in finished if (answer := request.response())]
        for one in answers:
            with contextlib.suppress(Error):  # the browser keeps no body of what it left
                shown += one.url + json.dumps(one.all_headers()) + one.text()
        assert len(answers) > 20 and TOKEN not in shown and KEY not in shown
        assert not [command for command in watch.commands if TOKEN in command or KEY in command]
        for module in ("studio.hub.upload", "studio.engine"):
            assert any(module in command for command in watch.commands), module
        assert watch.told and all("studio.hub.upload" in command for command in watch.told), watch.told
        page.close()
        studio.end()
    told = json.loads((home / "runs" / run / "exit.json").read_text())
    assert told["state"] == "failed" and "Traceback" in told["traceback"]
    assert "Traceback" in (home / "runs" / run / "log.txt").read_text()
    assert not held(tmp_path)
