"""What one visitor of a hosted studio may use, what they are told at the limit, and that at home there is none."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.errors import Conflict
from studio.recipe import Recipe
from studio.rundir import read_json, write_json
from studio.services.core import quotas
from studio.services.core.identity import EVERYONE, LOCAL, Visitor, acting
from studio.services.core.quotas import QuotaExceeded
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.exports import exports
from studio.services.runs import queue, runs, trash
from studio.store import runs as rows
from studio.ui.train import form
from studio.ui.web.server import make_app
from tests.belongings import Things, make
from tests.security.test_endpoints import blocks_of, handler
from tests.unit.services.core.test_matrix import client, heard

pytestmark = pytest.mark.slow

ANN, BEN = Visitor("anon-" + "a" * 32, kind="anonymous"), Visitor("account-7", "ben")
ADMIN = Visitor("account-1", "host", admin=True)


@pytest.fixture
def hosted(nothing_starts: None, ready: Studio, tmp_path: Path) -> Iterator[tuple[Studio, Things]]:
    """A hosted studio in which Ann has one of everything: one run that is over, one that waits."""
    ready.open_to_visitors()
    yield ready, make(ready, ANN, "wren", tmp_path / "ann")
    ready.for_visitors = False


def limited(studio: Studio, **quota: float) -> None:
    none = dict.fromkeys(("queue_most", "quota_running", "quota_queued", "quota_storage_gb", "quota_starts_day",
                          "quota_chat_tokens_day"), 0)  # fmt: skip
    changes = {"hosted": True, "hosted_models": "tiny", **none, **quota}
    studio.settings = studio.settings.model_copy(update=changes)


def begin(studio: Studio, things: Things) -> runs.RunInfo:
    return runs.start(studio, Recipe().with_values({"model": "tiny", "dataset": things.ids["dataset"]}))


def test_two_starts_at_once_are_two(hosted: tuple[Studio, Things], monkeypatch: pytest.MonkeyPatch) -> None:
    studio, things = hosted
    limited(studio, quota_queued=2)  # one waits already
    both, create, said = threading.Barrier(2), runs.create, []

    def slowly(*given: Any) -> Any:
        time.sleep(0.3)
        return create(*given)

    def one() -> None:
        both.wait(30)
        with acting(ANN):
            try:
                begin(studio, things)
                said.append("begun")
            except QuotaExceeded as error:
                said.append(str(error))

    monkeypatch.setattr(runs, "create", slowly)
    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(said)[1] == "begun" and sorted(said)[0].startswith("You already have 2 runs waiting")


@pytest.mark.parametrize(
    ("quota", "said"),
    [
        ({"queue_most": 1}, "The queue is full: 1 runs wait"),
        ({"quota_queued": 1}, "You already have 1 run waiting, and the limit is 1"),
        ({"quota_starts_day": 2}, "You have started 2 runs today"),
        ({"quota_storage_gb": 1e-9}, "the limit for one visitor is 1e-09 GiB. Delete runs and exports"),
    ],
)
def test_a_start_beyond_a_limit_is_refused_in_words(
    hosted: tuple[Studio, Things], quota: dict[str, float], said: str
) -> None:
    studio, things = hosted
    limited(studio, **quota)
    with acting(ANN), pytest.raises(QuotaExceeded, match=said):
        begin(studio, things)
    limited(studio)
    with acting(ANN):
        assert begin(studio, things).state == "queued"


def test_a_day_is_not_given_back_by_deleting(hosted: tuple[Studio, Things]) -> None:
    studio, things = hosted
    limited(studio, quota_starts_day=2)
    with acting(ANN):
        trash.throw(studio, things.ids["run"])
        assert quotas.used(studio).starts == 2
        with pytest.raises(QuotaExceeded, match="today"):
            begin(studio, things)


def test_one_export_at_a_time(hosted: tuple[Studio, Things], monkeypatch: pytest.MonkeyPatch) -> None:
    studio, things = hosted
    limited(studio, quota_running=1)
    monkeypatch.setattr("studio.launch.workers.start", lambda *_, **__: True)
    monkeypatch.setattr("studio.launch.workers.find", lambda _: "alive")
    with acting(ANN):
        assert exports.start(studio, things.ids["run"], "merged").state == "running"
        with pytest.raises(QuotaExceeded, match="You already have 1 in progress"):
            exports.start(studio, things.ids["run"], "merged")


def test_the_tokens_of_a_day_end(hosted: tuple[Studio, Things]) -> None:
    studio, _ = hosted
    limited(studio, quota_chat_tokens_day=100)
    with acting(ANN):
        quotas.check_chat(studio)
    quotas.note(studio, ANN, tokens=100)
    with acting(ANN), pytest.raises(QuotaExceeded, match="received 100 tokens of answers today"):
        quotas.check_chat(studio)
    with acting(BEN):
        quotas.check_chat(studio)
    # Yesterday's count is over.
    path = next(path for path in (studio.settings.home / "usage").iterdir() if ANN.owner in path.read_text())
    path.write_text(path.read_text().replace((read_json(path) or {})["day"], "2020-01-01"))
    with acting(ANN):
        quotas.check_chat(studio)


def test_the_admin_and_the_person_at_home_have_none(hosted: tuple[Studio, Things]) -> None:
    studio, _ = hosted
    limited(studio, queue_most=1, quota_starts_day=1, quota_storage_gb=1e-9, quota_chat_tokens_day=1)
    with acting(ADMIN):
        quotas.check_start(studio)
        quotas.check_chat(studio)
    studio.for_visitors = False
    quotas.check_start(studio)
    assert not (studio.settings.home / "usage" / "local.json").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_base_that_is_not_offered_is_refused_in_words(hosted: tuple[Studio, Things], tiny: Path, there: bool) -> None:
    """The same whether this home has it for its own person or not: by the API, by Train and by Add a base model."""
    studio, things = hosted
    limited(studio)
    if there:
        write_json(studio.settings.models / "other.json", {"path": str(tiny)})
    app = make_app(studio, "hosted")
    page, ann = blocks_of(app), client(app, studio, ANN)
    said = "This studio is shared: its base models are tiny."
    wanted = {"model": "other", "dataset": things.ids["dataset"]}
    for act in ("train", "estimate"):
        answer = ann.post(f"/gradio_api/run/{act}", json={"data": [wanted]})
        assert answer.json()["error"] == said, act
    events = {handler(event.fn): event for event in page.fns.values() if event.fn}
    values = {**form.defaults(), **wanted}
    begin_run = events["train.tab", "begin"]
    filled = [values[str(part.elem_id).removeprefix("field-")] for part in begin_run.inputs]
    for event, given in ((begin_run, filled), (events["train.model_box", "fetch"], ["someone/other"])):
        assert said in heard(page, event, given, ANN), event.fn
    with acting(ANN):
        assert len(runs.list_runs(studio)) == 2
        assert begin(studio, things).state == "queued", "what is offered can be trained"


def test_nobody_overtakes_another(hosted: tuple[Studio, Things]) -> None:
    studio, _ = hosted
    limited(studio)
    with acting(Visitor("account-9", "cy")):
        with acting(Visitor(EVERYONE)):
            datasets.add_sample(studio)
        mine = runs.start(studio, Recipe().with_values({"model": "tiny", "dataset": "tickets"}))
        assert mine.position == 2
        for overtake in (queue.first, queue.start_now, queue.reorder):
            with pytest.raises(Conflict, match="order in which they were asked for"):
                overtake(studio, mine.id)


def test_what_a_waiting_run_needs_is_the_same_whoever_looks(hosted: tuple[Studio, Things]) -> None:
    """The keeper looks when anyone begins something: another's run is not smaller for it."""
    studio, things = hosted
    limited(studio)
    row = rows.get(studio.database, things.ids["waiting"])
    seen = []
    for visitor in (ANN, BEN, LOCAL):
        with acting(visitor):
            seen.append(queue._needed(studio, row))
    assert seen[0] > 0 and seen == seen[:1] * 3
