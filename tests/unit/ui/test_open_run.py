"""Which run a page has open, when its questions cross on the way."""

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from studio.services.core.studio import Studio
from studio.services.runs.runs import RunInfo
from studio.ui.runs import open_run
from studio.ui.web.server import make_app
from tests.security.test_endpoints import blocks_of, handler
from tests.unit.services.runs.test_run_list import make

pytestmark = pytest.mark.usefixtures("nothing_starts")


def test_a_click_under_way_is_not_undone_by_a_tab_that_opens(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a page was loaded its tab asks for the newest run, while a run of the list was clicked already."""
    make(studio, "older", created=1000.0)
    make(studio, "newest", created=2000.0)
    app = make_app(studio)
    events = {handler(event.fn)[1]: number for number, event in blocks_of(app).fns.items()
              if event.fn and handler(event.fn)[0] == "runs.tab"}  # fmt: skip
    under_way, go_on = threading.Event(), threading.Event()
    find = open_run.find

    def slow(place: Studio, chosen: str) -> RunInfo | None:
        if chosen == "id-older" and not under_way.is_set():
            under_way.set()
            assert go_on.wait(30)
        return find(place, chosen)

    monkeypatch.setattr(open_run, "find", slow)
    with TestClient(app, base_url="http://127.0.0.1") as client:

        def ask(event: str, data: dict[str, Any] | None = None) -> str:
            sent = {"data": [None] * 4, "fn_index": events[event], "session_hash": "one", "event_data": data}
            answer = client.post("/gradio_api/run/predict", json=sent)
            assert answer.status_code == 200, answer.text
            return answer.text

        answers = []
        click = threading.Thread(target=lambda: answers.append(ask("pick", {"id": "id-older"})))
        click.start()
        assert under_way.wait(30)
        opened = ask("anew")
        go_on.set()
        click.join(30)
        assert "newest" not in opened
        assert "older" in answers[0]
        assert "older" in ask("anew")  # and this is the open one from now on
