"""Homes, models and datasets for tests. Every test has its own home; models are created once."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run in parallel: if each used every core, they would mostly wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from studio.launch.forkserver import ForkServer
from studio.services.chat import chat
from studio.services.core.keeper import Keeper
from studio.services.core.studio import FILE_READER, Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.settings import Settings
from tests.tiny import tiny_model

REPOSITORY = Path(__file__).parent.parent

with contextlib.suppress(ImportError):
    # rouge-score and TensorBoard import absl, whose log handler closes the stream it was created with (pytest's) when
    # logging is configured again. It does not close the process's own stderr.
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

# How long an example takes depends on the machine, not on the code.
hypothesis.settings.register_profile("studio", deadline=None)
hypothesis.settings.load_profile("studio")


# Files that take minutes: in parallel runs they come first, so that no worker is left with one at the end.
MINUTES = (
    *("test_data.py", "test_space.py", "test_pages.py", "test_whole_path.py", "test_two_users.py", "test_train.py"),
    *("test_matrix.py", "test_run_list.py", "test_scripts.py", "test_at_rest.py", "test_methods.py", "test_export.py"),
    *("test_runs.py", "test_compare.py", "test_curves.py", "test_import.py", "test_watched_run.py", "test_evaluate.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort fast tests first, browser tests last, so that mistakes show early; in parallel runs, slowest files first."""
    order = {"unit": 0, "integration": 1, "gpu": 2, "e2e": 3}
    items.sort(key=lambda item: order.get(item.path.parent.name, 0))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: MINUTES.index(item.path.name) if item.path.name in MINUTES else len(MINUTES))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", offline=True, keeper_interval=0.1)


@pytest.fixture(scope="session")
def reading() -> Iterator[ForkServer]:
    """The file reader of all tests' studios, imported once."""
    server = ForkServer(FILE_READER)
    yield server
    server.close()


@pytest.fixture
def keeper(settings: Settings) -> Iterator[Keeper]:
    keeper = Keeper(settings)
    with keeper:
        yield keeper


@pytest.fixture
def studio(keeper: Keeper, reading: ForkServer) -> Iterator[Studio]:
    opened = keeper.studio
    own, opened.file_reader = opened.file_reader, reading
    yield opened
    opened.file_reader = own  # it is closed with the studio
    chat.unload(opened)


@pytest.fixture
def nothing_starts(settings: Settings) -> Iterator[None]:
    """Keep runs that a test creates from starting: hold the dry-run lock, so that the queue starts nothing."""
    with FileLock(settings.prepare().dry_run_lock, thread_local=False):
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model, named `tiny` in every home."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset called `little`, created once as a user would: it is the same in every home."""
    folder = tmp_path_factory.mktemp("little")
    with Keeper(Settings(home=folder / "home", offline=True)) as opened:
        return Path(datasets.add(opened, write_jsonl(folder / "little.jsonl", little_rows())).path)


@pytest.fixture
def ready(studio: Studio, tiny: Path, little: Path) -> Studio:
    """A studio with the tiny model and a dataset called `little` of 24 short examples."""
    models.add(studio, str(tiny), lambda *_: None)
    shutil.copytree(little, studio.settings.datasets / little.name)
    studio.refresh()
    return studio


@pytest.fixture(scope="session")
def sample_model() -> Path:
    """The folder of the real sample model, prepared once and kept in `.cache` of the repository."""
    settings = Settings(home=REPOSITORY / ".cache" / "home", offline=True)
    settings.home.parent.mkdir(exist_ok=True)
    with FileLock(settings.home.parent / "tests.lock"), Keeper(settings) as opened:
        return Path(models.add(opened, models.SAMPLE, lambda what, *_: print(what)).path)


def little_rows(count: int = 24) -> list[dict[str, str]]:
    """Make `count` short Alpaca rows, all different."""
    return [
        {"instruction": f"Add {n} and {n + 1}.", "input": "Answer briefly." if n % 2 else "", "output": str(2 * n + 1)}
        for n in range(count)
    ]


def write_jsonl(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """write(name, content): create a file in the test's folder and return its path."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put
