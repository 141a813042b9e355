"""More events than the page's queue takes: the next is refused in words, at once, and all is well when it is empty."""

import json
import threading
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.utils import QueueError

from studio.errors import BadInput
from studio.services.models import models
from tests.security.conftest import Answer, House, told
from tests.security.test_endpoints import blocks_of, handler

MOST = 64


def test_a_full_queue_says_so_and_empties(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    page, go_on, begun, emptied = blocks_of(house.app), threading.Event(), threading.Event(), threading.Event()
    done: list[str] = []
    assert page._queue.max_size == MOST
    # Of these, one is worked on at a time.
    (number,) = [number for number, event in page.fns.items() if event.fn and handler(event.fn)[1] == "fetch"
                 and handler(event.fn)[0] == "train.model_box"]  # fmt: skip

    def held(_: Any, source: str, __: Any) -> None:
        begun.set()
        assert go_on.wait(120)
        done.append(source)
        if len(done) > MOST:
            emptied.set()
        raise BadInput("It was only tried.")

    def join(place: int) -> Answer:
        sent = told({"data": [f"someone/model-{place}"], "fn_index": number, "session_hash": f"full{place}"})
        return house.ask("POST", "/gradio_api/queue/join", {"Content-Type": "application/json"}, sent)

    monkeypatch.setattr(models, "add", held)
    try:
        assert join(0).status == 200 and begun.wait(30)
        assert [join(place).status for place in range(1, MOST + 1)] == [200] * MOST
        refused = join(MOST + 1)
        assert refused.status == 503
        assert json.loads(refused.body)["detail"] == f"Queue is full. Max size is {MOST} and size is {MOST}."
        # A program is told what to do; and what needs no queue goes on.
        client = Client(f"http://{house.host}", verbose=False)
        with pytest.raises(QueueError, match=r"Queue is full! Please try again\."):
            client.predict(rows=[{"instruction": "a", "output": "b"}], mapping=None, api_name="/check")
        at_once = house.ask("POST", "/gradio_api/run/runs", {"Content-Type": "application/json"}, told({"data": []}))
        assert at_once.status == 200 and house.run.encode() in at_once.body
        assert house.ask("GET", "/healthz").status == 200
    finally:
        go_on.set()
    assert emptied.wait(120)
    checked = client.predict(rows=[{"instruction": "a", "output": "b"}], mapping=None, api_name="/check")
    assert checked["ok"] == 1
    # The last one in is answered as if nothing had been: all before it were.
    sent = told({"data": ["someone/last"], "fn_index": number, "session_hash": "last"})
    assert house.ask("POST", "/gradio_api/queue/join", {"Content-Type": "application/json"}, sent).status == 200
    heard = house.ask("GET", "/gradio_api/queue/data?session_hash=last")
    assert b"It was only tried." in heard.body and b"process_completed" in heard.body
    assert done[: MOST + 1] == [f"someone/model-{place}" for place in range(MOST + 1)] and done[-1] == "someone/last"
