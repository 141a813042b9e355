"""A real studio on a free port with a home of its own, and a real Chromium in front of it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from studio.services.core.keeper import Keeper
from studio.services.models import models
from studio.settings import Settings
from tests.browser import FLAGS, ensure
from tests.serving import free_port
from tests.warm import Studios

expect.set_options(timeout=30_000)  # a busy machine is no failure


@dataclass
class Served:
    """A studio that is being served."""

    home: Path
    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """As a power cut would: no goodbye."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """As a system that shuts down would."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.terminate()
        self.process.wait(60)

    def cli(self, *words: str) -> dict[str, object]:
        """What a command with --json says of this home."""
        command = [sys.executable, "-m", "studio", "--home", str(self.home), *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return dict(json.loads(done.stdout))


def serve(home: Path, studios: Studios | None = None, options: Sequence[str] = ()) -> Served:
    """Start `studio serve` with these options and wait until it answers; a busy machine is no failure.

    With `studios` it is one of theirs, unless the test has given it an environment of its own.
    """
    port, log = free_port(), home.parent / "serve.log"
    words, env = ["--home", str(home), "serve", "--port", str(port), *options], environment()
    if studios and env == studios.env:
        process = studios.start(words, log)
    else:
        with log.open("ab") as out:
            process = psutil.Popen([sys.executable, "-m", "studio", *words], stdout=out, stderr=out, env=env)
    served = Served(home, port, process)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{served.url}/healthz", timeout=2) as answer:
                if answer.status == 200:
                    return served
        except OSError:
            time.sleep(0.1)
        assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE, log.read_text()
    process.kill()
    raise AssertionError("the studio did not answer within five minutes")


def environment() -> dict[str, str]:
    """Of a studio that is started now."""
    told = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    # What a waiting worker spares, tests/integration/test_warm.py tells. Each test's name is in pytest's variable.
    return {"STUDIO_WARM_SECONDS": "0"} | {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} | told


@pytest.fixture(scope="session")
def studios() -> Iterator[Studios]:
    found = Studios(environment())
    yield found
    found.close()


@pytest.fixture
def start(studios: Studios) -> Iterator[Callable[[Path], Served]]:
    """start(home): a served studio, ended with the test."""
    running: list[Served] = []

    def begin(home: Path) -> Served:
        running.append(serve(home, studios))
        return running[-1]

    yield begin
    for served in running:
        served.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, studios: Studios) -> Iterator[Served]:
    """One empty studio for tests that change nothing."""
    served = serve(tmp_path_factory.mktemp("shared") / "home", studios)
    yield served
    served.end()


@pytest.fixture
def little_home(tmp_path: Path, tiny: Path, little: Path) -> Path:
    """A home with the tiny model and the dataset `little`."""
    settings = Settings(home=tmp_path / "home", offline=True)
    with Keeper(settings) as studio:
        models.add(studio, str(tiny), lambda *_: None)
        shutil.copytree(little, settings.datasets / little.name)
        studio.refresh()
    return settings.home


@pytest.fixture
def sample_home(tmp_path: Path, sample_model: Path) -> Path:
    """A home with the real sample model."""
    home = tmp_path / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(sample_model), lambda *_: None)
    return home


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=ensure(), args=FLAGS)


@pytest.fixture
def page(browser: Browser, start: object) -> Iterator[Page]:
    """A page at 1440 px; the test fails if it logs an error or asks for anything beyond this machine.

    It wants `start` so that it is closed before the studio is.
    """
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(30_000)
    opened = context.new_page()
    wrong: list[str] = []
    _watch(opened, wrong)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: wrong.append(request.url) if not _is_here(request.url) else None)
    yield opened
    context.close()
    assert not wrong, wrong


# What Gradio logs of its own requests, which it ends when the page is left or reloaded. An event that was just being
# asked for has the leaving page listen once more, to a server that has forgotten it: 404, and a stream cut short.
_FAREWELLS = (
    "Unexpected error Connection errored out.",
    "Unexpected error 404: Not Found",
    "Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING",
    "TypeError: network error",
)
_LEAVING = "this document is being left"


def _watch(page: Page, wrong: list[str]) -> None:
    """Take down the errors that the page logs, but for farewells between a document's end and the next one's start."""
    leaving = False

    def logged(message: ConsoleMessage) -> None:
        nonlocal leaving
        if message.text == _LEAVING:
            leaving = True
        elif message.type == "error" and not (leaving and message.text.startswith(_FAREWELLS)):
            wrong.append(message.text)

    def arrived(_: Page) -> None:
        nonlocal leaving
        leaving = False

    # By the document itself and not by the navigation's request: Gradio says farewell before that is sent.
    page.add_init_script(f"addEventListener('beforeunload', () => console.debug({_LEAVING!r}))")
    page.on("console", logged)
    page.on("domcontentloaded", arrived)


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
