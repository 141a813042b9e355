"""The pulse of a page: what changed is told once, nothing is read where nothing changed, and never another's run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from studio.rundir import Exit, Journal
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.runs import labels
from studio.settings import Settings
from studio.store import runs as rows
from studio.store.db import Database
from studio.ui import sidebar
from studio.ui.runs import curves_view, open_run
from studio.ui.runs import view as runs_view
from studio.ui.web import app as pages
from studio.ui.web.server import make_app
from tests.unit.services.runs.test_run_list import make

pytestmark = pytest.mark.slow

NAME = "poems"
RUN = "id-poems"


@pytest.fixture
def client(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    make(studio, NAME)
    studio.look()
    # A memory gauge that moves is news too.
    monkeypatch.setattr(sidebar, "machine_now", lambda _: "<p>this machine</p>")
    with TestClient(make_app(studio), base_url="http://127.0.0.1") as made:
        yield made


def ask(client: TestClient, **more: Any) -> Any:
    have = ["now:", "machine:", "run-head:", "run-log:"]
    return client.get("/pulse", params={"tab": "runs", "run": RUN, "have": have, **more})


def statements(database: Database) -> list[str]:
    """What is asked of the database from now on."""
    asked: list[str] = []
    for engine in (database._reader, database._writer):
        event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    return asked


def test_the_parts_of_the_open_run_are_told_and_only_those_that_the_page_lacks(client: TestClient) -> None:
    told = ask(client).json()
    assert set(told["parts"]) == {"now", "machine", "run-head", "run-log"}
    assert NAME in told["parts"]["run-head"][1]
    have = [f"{name}:{mark}" for name, (mark, _) in told["parts"].items() if name != "run-log"]
    again = ask(client, have=[*have, "run-log:another"], shown=told["token"]).json()
    assert set(again["parts"]) == {"run-log"}


def test_nothing_new_is_said_without_reading_the_database(client: TestClient, studio: Studio) -> None:
    told = ask(client).json()
    asked = statements(studio.database)
    answer = ask(client, since=told["since"])
    # The studio of a test has no keeper's thread: what it does at a look is its own.
    assert answer.status_code == 204 and not answer.content
    assert asked == []


def test_a_new_point_a_word_in_the_log_and_a_note_are_news(client: TestClient, studio: Studio) -> None:
    since = ask(client).json()["since"]
    (studio.run_dir(RUN).path / "log.txt").write_text("a word\n")
    answer = ask(client, since=since)
    assert "a word" in answer.json()["parts"]["run-log"][1]
    since = answer.json()["since"]
    studio.notice("something", "It is odd.")
    assert ask(client, since=since).status_code == 200
    since = ask(client).json()["since"]
    make(studio, "another")
    studio.look()
    answer = ask(client, since=since)
    assert answer.status_code == 200 and answer.json()["line"] != ""


def test_what_is_said_of_a_run_elsewhere_has_the_list_asked_for(client: TestClient, studio: Studio) -> None:
    """By another browser or a command; the run has long been over."""
    told = ask(client).json()
    labels.tag(studio, RUN, ["fresh"])
    studio.look()
    answer = ask(client, since=told["since"])
    assert answer.status_code == 200 and answer.json()["line"] != told["line"]


def test_points_behind_a_cursor_come_with_it(client: TestClient, studio: Studio) -> None:
    found = client.get(f"/curves/{RUN}").json()
    with Journal(studio.run_dir("id-poems").events) as journal:
        journal.write("metric", step=4, loss=0.25)
    from studio.store import ingest

    ingest.ingest(studio.database, studio.run_dir(RUN))
    told = ask(client, curve=f"{RUN}@{found['cursor']}").json()
    (news,) = told["curves"]
    assert news["run"] == RUN and news["lines"]["loss"]["x"] == [4] and news["cursor"] > found["cursor"]


def test_a_run_that_ended_is_told_by_another_token(client: TestClient, studio: Studio) -> None:
    info = open_run.find(studio, RUN)
    assert info is not None
    assert ask(client).json()["token"] == runs_view.layout_key([info])
    Exit("failed", "No.", cause="error").write(studio.run_dir(RUN))
    from studio.store import runs

    runs.update(studio.database, RUN, state="failed")
    assert ask(client).json()["token"] != runs_view.layout_key([info])


def test_what_makes_no_sense_is_passed_over_and_nothing_is_told_of_others(client: TestClient, studio: Studio) -> None:
    make(studio, "theirs", owner="somebody", created=9e9)
    studio.look()
    told = ask(client, run="id-theirs", beside=["id-theirs", "../.."], order="{]", curve=["x", "y@z"]).json()
    assert "theirs" not in str(told) and "run-head" not in told["parts"]
    assert client.get("/pulse", params={"tab": "runs", "curve": "id-theirs@0", "run": RUN}).status_code == 404
    assert client.get("/pulse", headers={"host": "example.org"}).status_code == 403


def test_the_script_that_comes_first_is_first(client: TestClient) -> None:
    text = client.get("/").text
    assert text.index("/static/early.js") < text.index("<script", text.index("/static/early.js"))
    assert text.count("<script", 0, text.index("/static/early.js")) == 1
    assert len(text.encode()) == int(client.get("/").headers["content-length"])


def test_no_timer_of_gradios_ticks_and_no_hidden_progress_is_kept_by_many(studio: Studio) -> None:
    page = pages.build(studio)
    assert not [block for block in page.blocks.values() if block.get_block_name() == "timer"]
    places = {part.elem_id for fn in page.fns.values() for part in fn.show_progress_on or fn.outputs}
    assert places == {"nowhere"}


def test_a_question_takes_in_the_journals_of_the_runs_that_are_watched(
    settings: Settings, nothing_starts: None
) -> None:
    keeper = Keeper(settings.model_copy(update={"keeper_interval": 60.0}))
    with keeper as studio:
        for name, owner in ((NAME, "local"), ("theirs", "somebody")):
            Path(make(studio, name, owner=owner).exit).unlink()
        studio.look()
        keeper.start()
        with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
            cursor, since = client.get(f"/curves/{RUN}").json()["cursor"], ask(client).json()["since"]
            for run in (RUN, "id-theirs"):
                with Journal(studio.run_dir(run).events) as journal:
                    journal.write("metric", step=77, loss=0.5)
            told = ask(client, curve=f"{RUN}@{cursor}", since=since).json()
            assert told["curves"][0]["lines"]["loss"]["x"] == [77]
            assert "77" in told["parts"]["run-head"][1]
            for other in ("id-theirs@0", f"../runs/{RUN}@0"):
                assert ask(client, curve=other).status_code == 404
            assert rows.get(studio.database, "id-theirs").step == 3


def test_a_verdict_that_is_kept_for_a_while_is_told_anew_when_its_run_ends(
    client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(f"<p>verdict {number}</p>" for number in range(9))
    monkeypatch.setattr(curves_view, "verdict", lambda *_: next(said))
    monkeypatch.setattr(studio, "refresh", lambda: None)  # the state is what is written here
    rows.update(studio.database, RUN, state="running")

    def verdict() -> str:
        return str(ask(client, have=["run-verdict:"]).json()["parts"]["run-verdict"][1])

    assert verdict() == "<p>verdict 0</p>"
    rows.update(studio.database, RUN, step=99)
    assert verdict() == "<p>verdict 0</p>"
    rows.update(studio.database, RUN, state="completed")
    assert verdict() == "<p>verdict 1</p>"
