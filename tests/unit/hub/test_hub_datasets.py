"""Datasets by hub id, against a local server that speaks what the hub's client needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.errors import BadInput, Unavailable
from studio.hub.dataset import choose
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets, examples
from studio.services.data.checks import Options
from studio.settings import Settings

pytestmark = pytest.mark.slow

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A hub with one dataset, someone/faq; what is put into the dictionary are its files."""
    files: dict[str, bytes] = {}

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/datasets/someone/faq"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                self.reply(json.dumps({"id": "someone/faq", "sha": SHA, "siblings": siblings}).encode())
                return
            name = path.removeprefix(f"/datasets/someone/faq/resolve/{SHA}/")
            if name in files:
                self.reply(files[name], {"ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"', "X-Repo-Commit": SHA})
                return
            self.reply(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

        def reply(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    yield files
    server.shutdown()
    server.server_close()


@pytest.fixture
def online(tmp_path: Path) -> Iterator[Studio]:
    with Keeper(Settings(home=tmp_path / "home")) as studio:
        yield studio


def parquet(first: int) -> bytes:
    out = pa.BufferOutputStream()
    rows = range(first, first + 3)
    table = pa.table({"question": [f"q{n}" for n in rows], "answer": [f"a{n}" for n in rows]})
    pq.write_table(table, out)
    return out.getvalue().to_pybytes()


def test_a_hub_dataset_is_added_by_its_id(online: Studio, hub: dict[str, bytes]) -> None:
    hub |= {f"data/train-0000{n}-of-00002.parquet": parquet(3 * n) for n in range(2)}
    hub |= {"data/test-00000-of-00001.parquet": parquet(9), "README.md": b"# FAQ"}
    told: list[str] = []
    checked = checks.check(online, "someone/faq", progress=lambda what, *_: told.append(what))
    assert checked.report.mapping == {"instruction": "question", "output": "answer"}
    assert "Asking the hub for someone/faq" in told
    assert checked.path == f"someone/faq@{SHA}"
    info = datasets.add(online, checked.path, options=Options(mapping=checked.report.mapping))
    assert (info.name, info.rows, info.source) == ("faq", 6, f"someone/faq@{SHA}")
    assert [row["answer"] for row in examples.rows(online, info.id)] == [f"a{n}" for n in range(6)]
    assert [row["row"] for row in examples.rows(online, info.id)] == [1, 2, 3, 4, 5, 6]


def test_what_the_hub_lacks_is_said(online: Studio, hub: dict[str, bytes]) -> None:
    hub["script.py"] = b"import os"
    with pytest.raises(BadInput, match="has no parquet, jsonl"):
        checks.check(online, "someone/faq")
    with pytest.raises(BadInput, match="has no dataset nobody/faq"):
        checks.check(online, "nobody/faq")


def test_a_hub_that_does_not_answer_and_a_studio_that_stays_offline(
    online: Studio, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="hub cannot be reached"):
        checks.check(online, "someone/faq")
    with pytest.raises(Unavailable, match="set to stay offline"):
        checks.check(studio, "someone/faq")


@pytest.mark.parametrize(
    ("files", "part", "chosen"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "train.csv"], "", [0]),
        (["train.jsonl", "valid.jsonl", "dataset_infos.json"], "", [0]),
        (["faq.csv", "LICENSE"], "", [0]),
        (["en/train.parquet", "fr/train.parquet"], "fr", [1]),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], "", [0, 1]),
        (["a.json", "b.json"], "b.json", [1]),
    ],
)
def test_the_training_files_are_chosen(files: list[str], part: str, chosen: list[int]) -> None:
    assert choose(files, part, "x/y") == [files[at] for at in chosen]


def test_several_parts_are_a_choice() -> None:
    with pytest.raises(BadInput, match=r"several parts: en/train.parquet, fr/train.parquet. Choose one: x/y:en/train"):
        choose(["en/train.parquet", "fr/train.parquet"], "", "x/y")
    with pytest.raises(BadInput, match="nothing called 'de'"):
        choose(["en/train.parquet"], "de", "x/y")
