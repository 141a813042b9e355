"""The real application on a real socket, in this process, with something in it that nobody else may read or change."""

import hashlib
import http.client
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from filelock import FileLock

from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.settings import Settings
from studio.ui.web.server import make_app
from tests.serving import free_port, serving
from tests.unit.services.runs.test_run_list import make

SECRET = "mine-and-nobody-elses"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class House:
    """A studio that is served. run: the id of its one run, which is called SECRET."""

    studio: Studio
    app: FastAPI
    port: int
    run: str

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def raw(self, request: bytes, seconds: float = 10) -> Answer:
        """Send these very bytes; the answer, of a stream its beginning."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            try:
                answer.begin()
                body = answer.read(200_000)
            except (http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
                return Answer(0, {}, repr(error).encode())
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)

    def ask(
        self, method: str, path: str, headers: dict[str, str] | list[tuple[str, str]] | None = None, body: bytes = b""
    ) -> Answer:
        """A request with these headers; Host and Content-Length are added where they are not given."""
        given = list(headers.items()) if isinstance(headers, dict) else list(headers or [])
        names = {name.lower() for name, _ in given}
        if "host" not in names:
            given.insert(0, ("Host", self.host))
        if "content-length" not in names and "transfer-encoding" not in names and (body or method == "POST"):
            given.append(("Content-Length", str(len(body))))
        given.append(("Connection", "close"))
        head = "".join(f"{name}: {value}\r\n" for name, value in given)
        return self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body)

    def state(self) -> dict[str, str]:
        """All that a person made, and what lies in Gradio's folder of uploads: a digest of each file."""
        home = self.studio.settings
        uploads = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
        found = {}
        for root in (home.runs, home.datasets, home.models, home.adapters, home.exports, home.evaluations,
                     home.prompts, home.staging, uploads):  # fmt: skip
            for path in root.rglob("*"):
                if path.name != ".about.lock":
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        port = free_port()
        settings = Settings(home=folder / "home", offline=True, port=port, requests_per_second=0)
        with FileLock(settings.prepare().dry_run_lock, thread_local=False), Keeper(settings).start() as studio:
            run = make(studio, SECRET, notes=SECRET)
            studio.look()
            app = make_app(studio)
            with serving(studio, app):
                yield House(studio, app, port, run.path.name)


def told(value: object) -> bytes:
    return json.dumps(value).encode()
