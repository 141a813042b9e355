"""A studio that closes does not wait for an answer that is being given, and leaves no chat worker behind."""

import threading
import time
from pathlib import Path

import psutil
import pytest

from studio.errors import Unavailable
from studio.recipe import Recipe
from studio.services.chat import chat, participants
from studio.services.core.keeper import Keeper
from studio.services.core.states import FINAL
from studio.services.data import datasets
from studio.services.models import models
from studio.services.runs import runs
from studio.settings import Settings
from tests.conftest import little_rows, write_jsonl

pytestmark = pytest.mark.engine


def test_closing_cuts_an_answer_short(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    keeper = Keeper(settings)
    studio = keeper.studio
    models.add(studio, str(tiny), lambda *_: None)
    datasets.add(studio, write_jsonl(tmp_path / "little.jsonl", little_rows()))
    values = {"model": "tiny", "dataset": "little", "max_steps": 2, "dtype": "float32", "held_out": 0}
    run = runs.start(studio, Recipe().with_values(values))
    while (info := runs.get(studio, run.id)).state not in FINAL:
        time.sleep(0.2)
    assert info.has_adapter, runs.log_tail(studio, run.id)
    ends: list[str] = []
    answering = threading.Event()

    def listen() -> None:
        try:
            talk = [{"role": "user", "content": "Hello?"}]
            found = participants.resolve(studio, ["base", run.id])
            for state in chat.ask(studio, found, [talk, talk], chat.Sampling(max_new_tokens=900)):
                if state.status == "Answering":
                    answering.set()
            ends.append("answered")
        except Unavailable:
            ends.append("cut short")

    asker = threading.Thread(target=listen)
    asker.start()
    assert answering.wait(120)
    keeper.close()
    asker.join(60)
    assert ends == ["cut short"]
    alive = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert [child.pid for child in alive if "studio.engine.workers.chat" in child.cmdline()] == []
