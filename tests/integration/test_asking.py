"""Asking through the services and the command line with the real worker: sessions, sides, memory."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.recipe import Recipe
from studio.services.chat import chat, comparisons, participants
from studio.services.chat.chat import ChatState, Sampling
from studio.services.chat.session import ChatSession
from studio.services.core.keeper import Keeper
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.models import models
from studio.services.runs import runs
from studio.settings import Settings
from tests.conftest import little_rows, write_jsonl

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def asked(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studio, str, str]]:
    """A studio with a LoRA run that has a checkpoint at step 2, and a DoRA run."""
    folder = tmp_path_factory.mktemp("asked")
    with Keeper(Settings(home=folder / "home", offline=True, keeper_interval=0.1)) as studio:
        models.add(studio, str(tiny), lambda *_: None)
        datasets.add(studio, write_jsonl(folder / "little.jsonl", little_rows()))
        values = {"model": "tiny", "dataset": "little", "max_steps": 4, "save_steps": 2, "dtype": "float32", "r": 4}
        made = []
        for more in ({}, {"use_dora": True}):
            recipe = Recipe().with_values(values | {"held_out": 0, "learning_rate": 0.02} | more)
            made.append(runs.start(studio, recipe).id)
        for run in made:
            while (info := runs.get(studio, run)).state not in FINAL:
                time.sleep(0.2)
            assert info.has_adapter, runs.log_tail(studio, run)
        yield studio, made[0], made[1]


def ask(studio: Studio, written: list[str], session: str = "", **sampling: float) -> Iterator[ChatState]:
    found = participants.resolve(studio, written)
    turn = comparisons.ask(found, "Hello?", Sampling(**{"max_new_tokens": 12, **sampling}))  # type: ignore[arg-type]
    return chat.ask(studio, found, comparisons.messages(comparisons.new_comparison(), turn), turn.sampling, session)


def test_sides_share_a_base_that_is_loaded_once(asked: tuple[Studio, str, str]) -> None:
    studio, lora, dora = asked
    *_, first = ask(studio, ["base", lora])
    assert first.finished and all(answer.done and answer.tokens for answer in first.answers) and not first.notes
    assert studio.state(ChatSession).talker is not None
    pid = studio.state(ChatSession).talker.pid
    *_, again = ask(studio, ["base", f"{lora}@2", lora])
    assert [again.answers[0].text, again.answers[2].text] == [answer.text for answer in first.answers]
    *_, third = ask(studio, ["base", dora])
    assert third.answers[0].text == first.answers[0].text and "a DoRA adapter" in third.notes[0]
    assert studio.state(ChatSession).talker.pid == pid and chat.loaded(studio).adapters == 3
    for written, said in (
        ([f"{lora}@99"], "has no checkpoint of step 99. It has: 2, 4"),
        ([lora, f"{lora}@4"], "The same weights are chosen twice"),
        (["base", lora, dora, f"{lora}@2"], "At most 3"),
    ):
        with pytest.raises(BadInput, match=said):
            participants.resolve(studio, written)
    (studio.run_dir(lora).checkpoints / "step-2" / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(Conflict, match="is damaged"):
        participants.resolve(studio, [f"{lora}@2"])


def test_sessions_wait_for_each_other_and_stop_only_their_own(asked: tuple[Studio, str, str]) -> None:
    studio, lora, _ = asked
    answering, ends = threading.Event(), {}

    def listen(session: str, tokens: int) -> None:
        for state in ask(studio, ["base", lora], session, max_new_tokens=tokens):
            if any(answer.text for answer in state.answers):
                answering.set()
        ends[session] = state.answers[0].reason

    one = threading.Thread(target=listen, args=("one", 950))
    one.start()
    assert answering.wait(120)
    two = threading.Thread(target=listen, args=("two", 4))
    two.start()
    with pytest.raises(Conflict, match="A question is being answered"):
        chat.unload(studio)
    chat.stop(studio, "three")
    time.sleep(0.2)
    chat.stop(studio, "one")
    one.join(60)
    two.join(60)
    assert ends["one"] in ("stopped", "length") and ends["two"] in ("length", "end")
    # An asker who leaves before the end leaves the worker ready for the next.
    leaving = ask(studio, ["base", lora], "one", max_new_tokens=950)
    while not any(answer.text for answer in next(leaving).answers):
        pass
    leaving.close()  # type: ignore[attr-defined]
    *_, after = ask(studio, ["base", lora], "one", max_new_tokens=3)
    assert after.finished and after.answers[0].tokens <= 3


def test_a_run_that_needs_the_memory_gets_it(asked: tuple[Studio, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    studio, lora, _ = asked
    from studio.services.runs import queue

    states = ask(studio, ["base", lora], max_new_tokens=950)
    while not any(answer.text for answer in next(states).answers):
        pass
    studio.state(ChatSession).make_room("local", "large")
    with pytest.raises(Unavailable, match="The model made room for the run large; ask again to load it"):
        list(states)
    *_, after = ask(studio, ["base", lora])
    assert after.finished and chat.loaded(studio).made_room == ""
    # The keeper asks for it when it starts a run.
    monkeypatch.setattr(queue, "missing", lambda *_: 1)
    values = {"model": "tiny", "dataset": "little", "max_steps": 1, "dtype": "float32", "held_out": 0, "name": "big"}
    started = runs.start(studio, Recipe().with_values(values))
    assert chat.loaded(studio) == chat.Loaded(made_room="the run big")
    while runs.get(studio, started.id).state not in FINAL:
        time.sleep(0.2)
    *_, after = ask(studio, ["base", lora])
    assert after.finished and chat.loaded(studio).model == "tiny"
    chat.unload(studio)
    assert chat.loaded(studio) == chat.Loaded()


def test_the_command_asks_several(asked: tuple[Studio, str, str]) -> None:
    studio, lora, dora = asked
    home = str(studio.settings.home)
    words = ["chat", lora, "--prompt", "Hi?", "--against", f"base,{dora}", "--max-new-tokens", "5", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "studio", "--home", home, *words],
        capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told["answers"]) == ["base", dora, "adapted"] and told["answers"]["adapted"]["side"] == f"{lora}@4"
    assert all(0 < answer["tokens"] <= 5 for answer in told["answers"].values())
    with pytest.raises(StudioError):
        participants.resolve(studio, [f"{lora}@x"])
