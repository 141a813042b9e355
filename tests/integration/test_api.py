"""The public API by Gradio's own client, on a studio that is served: from rows to an adapter on disk."""

import io
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from studio.services.core.keeper import Keeper
from studio.services.models import models
from studio.settings import Settings
from tests.conftest import little_rows
from tests.e2e.conftest import Served, serve

pytestmark = pytest.mark.engine
CALLS = {
    "check", "add_dataset", "datasets", "models", "estimate", "train", "runs", "run", "stop", "chat", "export",
    "exports",
}  # fmt: skip


@pytest.fixture
def served(tiny: Path, tmp_path: Path) -> Iterator[Served]:
    home = tmp_path / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(tiny), lambda *_: None)
    found = serve(home)
    yield found
    found.end()


def until(ask: Any, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while (found := ask())["state"] != state:
        assert found["state"] not in ("failed", "interrupted") and time.monotonic() < deadline, found
        time.sleep(0.3)
    return dict(found)


def test_a_program_walks_the_whole_path(served: Served) -> None:
    client = Client(served.url, verbose=False)
    assert {name.strip("/") for name in client.view_api(return_format="dict")["named_endpoints"]} == CALLS

    rows = [*little_rows(), {"instruction": "No answer", "input": "", "output": ""}]
    checked = client.predict(rows=rows, mapping=None, api_name="/check")
    assert checked["format"] == "alpaca" and checked["ok"] == 24
    assert [one["row"] for one in checked["findings"]] == [25]
    added = client.predict(check=checked["check"], name="little", api_name="/add_dataset")
    assert added["rows"] == 24 and "path" not in added
    assert {one["name"] for one in client.predict(api_name="/datasets")} == {"little", "tickets"}
    assert [one["id"] for one in client.predict(api_name="/models")] == ["tiny"]

    recipe = {"model": "tiny", "dataset": "little", "max_steps": 3, "r": 4, "dtype": "float32"}
    assert client.predict(recipe=recipe, api_name="/estimate")["fits"]
    run = client.predict(recipe=recipe, api_name="/train")["id"]
    done = until(lambda: client.predict(id=run, api_name="/run"), "completed")
    assert done["step"] == 3 and [one["id"] for one in client.predict(api_name="/runs")] == [run]

    told = client.predict(id=run, prompt="Add 1 and 2.", max_new_tokens=4, api_name="/chat")
    assert [one["who"] for one in told["answers"]] == ["base", run] and told["answers"][0]["tokens"] > 0

    begun = client.predict(id=run, to="adapter", api_name="/export")
    until(lambda: next(one for one in client.predict(api_name="/exports") if one["id"] == begun["id"]), "completed")
    (export,) = client.predict(api_name="/exports")
    with urllib.request.urlopen(served.url + export["download"]) as answer:
        names = zipfile.ZipFile(io.BytesIO(answer.read())).namelist()
    assert any(name.endswith("adapter_model.safetensors") for name in names)


def test_what_cannot_be_done_is_a_sentence(served: Served) -> None:
    client = Client(served.url, verbose=False)
    for call, values, words in (
        ("/train", {"recipe": {"model": "tiny", "dataset": "nothing"}}, "There is no dataset 'nothing'"),
        ("/train", {"recipe": {"model": "tiny", "rank": 4}}, "rank"),
        ("/run", {"id": "../../etc"}, "There is no run"),
        ("/check", {"rows": [], "mapping": None}, "empty|no rows"),
        ("/check", {"rows": ["../x"], "mapping": None}, "Row 1: a text"),
        ("/stop", {"id": "none"}, "There is no run"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(api_name=call, **values)
