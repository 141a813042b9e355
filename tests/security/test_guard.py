"""What the guard lets in besides: a Space's frame, a proxy's names; and what one client may send, and how often."""

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from studio.settings import Settings
from studio.ui.web import uvicorn_compat as connections
from studio.ui.web.guard import Guard, Policy
from studio.ui.web.rate_limits import Bounded, Buckets
from tests.security.conftest import House
from tests.security.test_request_shapes import fetch

SPACE = {"SPACE_ID": "me/studio", "SPACE_HOST": "me-studio.hf.space"}
Headers = dict[str, str]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body, then says how long it was, who asked, and over what."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left")
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    said = {"size": size, "client": (scope.get("client") or ("",))[0], "scheme": scope.get("scheme"),
            "headers": [name.decode() for name, _ in scope["headers"]]}  # fmt: skip
    await send({"type": "http.response.start", "status": 200, "headers": [(b"access-control-allow-origin", b"*")]})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


def ask(
    app: Any, headers: Headers, method: str = "GET", path: str = "/", parts: tuple[bytes, ...] = (b"",), stays: int = 0
) -> tuple[int, Headers, bytes]:
    """What an application answers; of the parts, `stays` never come."""
    waiting = list(parts)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or bool(stays)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http",
        "client": ("10.0.0.7", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    with ThreadPoolExecutor(1) as thread:  # a browser's tests leave a loop running in this one
        thread.submit(asyncio.run, app(scope, receive, send)).result()
    told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


def guard(env: Headers | None = None, **settings: Any) -> Guard:
    return Guard(echo, Policy.of(Settings(home=Path("x"), **settings), env or {}))


HERE = {"Host": "127.0.0.1:7860"}
THERE = {"Host": SPACE["SPACE_HOST"]}


def test_a_space_is_shown_in_its_frame_and_is_its_own_inside() -> None:
    space = guard(SPACE, host="0.0.0.0")
    framed = THERE | fetch("cross-site", "navigate", "iframe")
    status, headers, _ = ask(space, framed)
    assert status == 200 and "x-frame-options" not in headers
    assert "access-control-allow-origin" not in headers
    origin = f"https://{SPACE['SPACE_HOST']}"
    inside = THERE | fetch("same-origin", "cors", origin=origin) | {"X-Forwarded-Proto": "https"}
    status, _, body = ask(space, inside, "POST", "/gradio_api/queue/join")
    assert status == 200 and json.loads(body)["scheme"] == "https"
    assert ask(space, THERE | fetch("cross-site", "navigate", "document"), path="/login/callback")[0] == 200
    for path in ("/logout", "/login/huggingface", "/runs.json", "/download/x"):
        assert ask(space, THERE | fetch("cross-site", "navigate", "iframe"), path=path)[0] == 403, path
    hub = "https://huggingface.co"
    assert ask(space, THERE | fetch("cross-site", "cors", origin=hub), "POST")[0] == 403
    assert ask(space, THERE | fetch("cross-site", "no-cors", "script"))[0] == 403
    assert ask(space, {"Host": "other-space.hf.space"})[0] == 403
    assert ask(space, {"Host": "10.1.2.3:7860"}, path="/healthz")[0] == 200, "asked by its address whether it is up"


def test_the_frame_of_a_space_is_no_frame_elsewhere() -> None:
    assert ask(guard({"SPACE_HOST": "x.example"}), HERE | fetch("cross-site", "navigate", "iframe"))[0] == 403
    assert ask(guard({"SPACE_HOST": "x.example"}), {"Host": "x.example"})[0] == 403, "no Space, so none of its names"


def test_a_proxy_s_names_are_set_and_only_then_is_it_believed() -> None:
    forwarded = {"X-Forwarded-For": "1.2.3.4, 10.0.0.1", "X-Forwarded-Proto": "https"}
    plain = json.loads(ask(guard(), HERE | forwarded)[2])
    assert plain["client"] == "10.0.0.7" and plain["scheme"] == "http"
    assert not [name for name in plain["headers"] if name.startswith("x-forwarded")]
    behind = guard(hosts="studio.example, Other.example")
    told = json.loads(ask(behind, {"Host": "studio.example"} | forwarded)[2])
    assert told["client"] == "1.2.3.4" and told["scheme"] == "https"
    assert ask(behind, {"Host": "other.example", "X-Forwarded-Host": "studio.example"})[0] == 200
    assert ask(behind, {"Host": "other.example", "X-Forwarded-Host": "evil.example"})[0] == 403
    assert ask(behind, {"Host": "evil.example", "X-Forwarded-Host": "studio.example"})[0] == 403
    assert ask(behind, {"Host": "studio.example", "Origin": "https://studio.example"}, "POST")[0] == 200
    assert ask(behind, {"Host": "studio.example", "Origin": "https://evil.example"}, "POST")[0] == 403


def test_in_a_network_its_addresses_are_its_own_and_names_are_not() -> None:
    open_to_all = guard(host="0.0.0.0")
    assert ask(open_to_all, {"Host": "192.168.1.5:7860"})[0] == 200
    assert ask(open_to_all, {"Host": "[fe80::1]:7860"})[0] == 200
    assert ask(open_to_all, {"Host": "evil.example:7860"})[0] == 403
    assert ask(guard(), {"Host": "192.168.1.5:7860"})[0] == 403


def test_ten_seconds_worth_may_come_at_once_and_the_rest_waits() -> None:
    now = 0.0
    buckets = Buckets(2.0, 20.0, lambda: now)
    assert [buckets.take("a") for _ in range(21)] == [True] * 20 + [False]
    assert buckets.take("b"), "another client is not kept waiting"
    now = 1.0
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    now = 1e6
    assert [buckets.take("a") for _ in range(21)] == [True] * 20 + [False]
    assert all(Buckets(0, 0).take("a") for _ in range(1000))


def test_who_asks_too_often_is_told_to_wait_and_files_of_the_page_are_free() -> None:
    flooded = guard(requests_per_second=0.1)
    assert ask(flooded, HERE)[0] == 200
    status, headers, body = ask(flooded, HERE)
    assert (status, headers["retry-after"]) == (429, "1") and b"Wait a moment" in body
    assert ask(flooded, HERE, path="/assets/index.js")[0] == 200


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [("/runs/x", 8 * 2**20, 200), ("/runs/x", 8 * 2**20 + 1, 413), ("/gradio_api/upload", 3 * 2**20, 200),
     ("/gradio_api/upload", 3 * 2**20 + 1, 413), ("/runs/x", 10**30, 413)],
)  # fmt: skip
def test_what_is_said_to_be_too_long_is_not_read(path: str, length: int, status: int) -> None:
    assert ask(guard(max_file_mb=2), HERE | {"Content-Length": str(length)}, "POST", path)[0] == status


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "٣", "+5", " "])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    assert ask(guard(), HERE | {"Content-Length": length}, "POST")[0] == 400


def test_what_turns_out_too_long_is_cut_off() -> None:
    assert ask(Bounded(echo, 10), {}, "POST", parts=(b"12345", b"12345"))[0] == 200
    status, headers, body = ask(Bounded(echo, 10), {}, "POST", parts=(b"12345", b"123456", b"more"))
    assert status == 413 and headers["connection"] == "close" and b"MiB" in body


def test_what_comes_too_slowly_is_ended() -> None:
    assert ask(Bounded(echo, 10, patience=0.05), {}, "POST", parts=(b"1",), stays=1)[0] == 408


def test_chunks_beyond_the_bound_end_at_the_real_studio(house: House) -> None:
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    head = f"POST /trash HTTP/1.1\r\nHost: {house.host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(head)
        answer = http.client.HTTPResponse(connection)
        try:
            for _ in range(64):
                connection.sendall(chunk)
        except OSError:
            pass  # the studio stopped reading
        else:
            raise AssertionError("the studio read it all")
        try:
            answer.begin()
        except OSError:
            return  # what it said was lost with what it did not read
        assert answer.status == 413


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def be(**limits: float) -> None:
        for name, value in limits.items():
            monkeypatch.setattr(connections, name, value)

    return be


def test_a_head_that_never_ends_is_not_waited_for(house: House, impatient: Callable[..., None]) -> None:
    impatient(HEADER_SECONDS=0.3)
    slow = [socket.create_connection(("127.0.0.1", house.port), timeout=20) for _ in range(8)]
    for number, connection in enumerate(slow):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127" if number % 2 else b"")
    assert house.ask("GET", "/healthz").status == 200
    for connection in slow:
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_second_head_that_never_ends_is_not_waited_for(house: House, impatient: Callable[..., None]) -> None:
    impatient(HEADER_SECONDS=0.3)
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {house.host}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HT")
        try:
            while connection.recv(100):
                pass
        except ConnectionResetError:
            pass


def test_one_address_holds_so_many_connections_and_no_more(house: House, impatient: Callable[..., None]) -> None:
    impatient(EACH=3)
    held = [socket.create_connection(("127.0.0.1", house.port), timeout=20) for _ in range(3)]
    for connection in held:  # each is taken before the next is asked
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {house.host}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    one_more = socket.create_connection(("127.0.0.1", house.port), timeout=20)
    with one_more, contextlib.suppress(ConnectionResetError):
        assert one_more.recv(100) == b""
    for connection in held:
        connection.close()


def test_the_page_s_policy_lets_only_its_own_scripts_run(house: House) -> None:
    answers = [house.ask("GET", "/") for _ in range(2)]
    policies = [answer.headers["content-security-policy"] for answer in answers]
    assert policies[0] != policies[1], "a nonce is used once"
    nonce = policies[0].partition("'nonce-")[2].partition("'")[0]
    scripts = [part.partition(b">")[0] for part in answers[0].body.split(b"<script")[1:]]
    # A file of the studio's own needs none: script-src 'self' lets it in.
    written = [part for part in scripts if b' src="/static/' not in part]
    assert written and all(f'nonce="{nonce}"'.encode() in part for part in written)
    assert "'unsafe-inline'" not in policies[0].partition("style-src")[0]
    other = house.ask("GET", "/runs.json").headers
    assert other["content-security-policy"].startswith("default-src 'none'")
    for headers in (answers[0].headers, other, house.ask("GET", "/nowhere").headers):
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin" and "server" not in headers
