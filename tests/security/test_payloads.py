"""Two thousand words with which somebody tries to reach files by path, at every route that takes one."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import studio
from studio import resources
from tests.payloads import raw, words
from tests.security.conftest import SECRET, House, told
from tests.security.test_endpoints import routes_of
from tests.security.watch import watched

# What would be in an answer that holds a file: of the system, of the home, and of the folder beside it.
LEAKS = re.compile(rb"root:.{0,9}:0:0|SQLite format 3|PATH=|outside-the-home|BEGIN [A-Z ]*PRIVATE")
HERE = (Path(sys.prefix), Path(sys.base_prefix), resources.static(), resources.data(), Path(studio.__file__).parent)


REFUSED = ("/gradio_api/", "/monitoring", "/svelte", "/pwa_icon")


def _apart(work: Coroutine[Any, Any, None]) -> None:
    """Run it in a thread of its own: a browser's tests leave a loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


def with_parameters(house: House) -> list[tuple[str, str]]:
    """Method and path of every route that takes something from the path, ours and Gradio's, refused ones too."""
    found = [(method, path) for method, path in routes_of(house.app) if "{" in path]
    assert len(found) > 25
    return sorted({*found, ("GET", "/static/{path}"), ("GET", "/{path}"), ("GET", "/assets/{path}")})


async def asked(app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
    """As uvicorn would hand a request on: the path decoded once, the query cut off."""
    before, _, query = path.partition("?")
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": unquote(before), "raw_path": before.encode(), "headers": headers,
        "query_string": query.encode(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1), "scheme": "http",
        "root_path": "", "http_version": "1.1",
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_two_thousand_words_reach_no_file_outside_the_home(house: House) -> None:
    home = house.studio.settings.home
    (home.parent / "outside.txt").write_text("outside-the-home")
    payloads = raw(2000)
    assert len(set(payloads)) == 2000
    routes = with_parameters(house)
    headers = [(b"host", house.host.encode()), (b"content-type", b"application/json")]
    body = told({"name": "x"})
    bad: list[str] = []

    async def all_of_them() -> None:
        for number, word in enumerate(payloads):
            for place, (method, path) in enumerate(routes):
                if path.startswith(REFUSED) and (number + place) % 8:
                    continue  # these end at one pattern for all of them
                filled = re.sub(r"\{[^}]*\}", lambda _, word=word: word, path)
                status, answer = await asked(house.app, method, filled, headers, body if method == "POST" else b"")
                if status >= 500 or LEAKS.search(answer) or SECRET.encode() in answer:
                    bad.append(f"{number} {method} {filled[:200]} {status} {answer[:80]!r}")

    before = house.state()
    with watched() as seen:
        _apart(all_of_them())
    assert not bad, bad[:10]
    assert not seen.beyond(home, *HERE), sorted(seen.beyond(home, *HERE))[:10]
    assert not seen.asked and not seen.started
    assert house.state() == before


FIELDS = ["search", "state", "model", "dataset", "tag", "sort"]


def test_words_in_queries_and_bodies_reach_no_file(house: House) -> None:
    home = house.studio.settings.home
    headers = [(b"host", house.host.encode()), (b"content-type", b"application/json")]
    bad: list[str] = []

    async def all_of_them() -> None:
        for number, word in enumerate(raw(2000)[::4]):
            field = FIELDS[number % len(FIELDS)]
            for path in (f"/runs.json?{field}={word}", f"/curves?run={word}", f"/?run={word}&tab={word}"):
                if number % 50 and path.startswith("/?"):
                    continue  # the page is large, and the server looks at nothing of its address
                status, answer = await asked(house.app, "GET", path.replace("#", "%23"), headers, b"")
                if status >= 500 or LEAKS.search(answer):
                    bad.append(f"{path[:200]} {status} {answer[:80]!r}")
        for word in list(words())[::2]:
            status, answer = await asked(house.app, "POST", "/trash", headers, told({"runs": [word]}))
            if status >= 500 or LEAKS.search(answer):
                bad.append(f"/trash {word!r} {status} {answer[:80]!r}")

    before = house.state()
    with watched() as seen:
        _apart(all_of_them())
    assert not bad, bad[:10]
    assert not seen.beyond(home, *HERE), sorted(seen.beyond(home, *HERE))[:10]
    assert house.state() == before


def takers(house: House) -> list[tuple[int, int, int]]:
    """Events that take a file: their number, how many values they take, and which of these is the file."""
    from tests.security.test_endpoints import blocks_of

    found = []
    for number, event in blocks_of(house.app).fns.items():
        for place, part in enumerate(event.inputs):
            if type(part).__name__ in ("File", "UploadButton"):
                found.append((number, len(event.inputs), place))
    return found


@pytest.mark.parametrize("shape", ["path", "url", "both"])
def test_a_file_is_taken_from_uploads_alone(house: House, shape: str) -> None:
    """Who says of an upload that it lies elsewhere is not believed."""
    home = house.studio.settings.home
    outside = home.parent / "outside.jsonl"
    outside.write_text('{"instruction": "outside-the-home", "output": "x"}\n')
    events = takers(house)
    assert len(events) >= 4
    tried = [str(outside), "/etc/passwd", f"file://{outside}", "http://127.0.0.1:9/x", "http://169.254.169.254/x",
             str(home / "studio.db"), f"{home}/../outside.jsonl", *list(words())[60:600:30]]  # fmt: skip
    before = house.state()
    with watched() as seen:
        for number, count, place in events:
            for word in tried:
                data: list[object] = [None] * count
                data[place] = {"meta": {"_type": "gradio.FileData"}, "orig_name": "x.jsonl",
                               "path": word if shape != "url" else "x",
                               **({"url": word} if shape != "path" else {})}  # fmt: skip
                sent = told({"data": data, "fn_index": number, "session_hash": f"s{number}"})
                answer = house.ask("POST", "/gradio_api/run/predict", {"Content-Type": "application/json"}, sent)
                assert not LEAKS.search(answer.body), (number, word, answer)
    assert outside.exists() and house.state() == before
    assert str(outside) not in seen.files and "/etc/passwd" not in seen.files
    assert not [what for what in seen.asked if "169.254" in what or "'127.0.0.1', 9" in what]


def test_gradio_gives_out_no_upload(house: House) -> None:
    """Not even the one that was just sent, by whatever way there was to a file."""
    sent = house.ask(
        "POST", "/gradio_api/upload", {"Content-Type": 'multipart/form-data; boundary="b"'},
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="mine.jsonl"\r\n\r\n'
        b"outside-the-home\r\n--b--\r\n",
    )  # fmt: skip
    assert sent.status == 200
    (path,) = json.loads(sent.body)
    for way in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/file={path}", f"/gradio_api/proxy={path}",
                f"/static/{path}", f"/assets/{path}", f"/gradio_api/stream/{path}", path):  # fmt: skip
        answer = house.ask("GET", way)
        assert answer.status in (403, 404) and b"outside-the-home" not in answer.body, way


def test_what_was_uploaded_leaves_gradio_s_folder_at_once(house: House) -> None:
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    for number, count, place in takers(house):
        for name in ("mine.jsonl", "mine.zip", "mine.yaml"):
            sent = house.ask(
                "POST", "/gradio_api/upload", {"Content-Type": 'multipart/form-data; boundary="b"'},
                f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
                f"my own words {number}\r\n--b--\r\n".encode(),
            )  # fmt: skip
            (path,) = json.loads(sent.body)
            data: list[object] = [None] * count
            data[place] = {"meta": {"_type": "gradio.FileData"}, "orig_name": name, "path": path}
            asked = told({"data": data, "fn_index": number, "session_hash": f"u{number}{name}"})
            done = house.ask("POST", "/gradio_api/run/predict", {"Content-Type": "application/json"}, asked)
            if (
                done.status == 200 and b'"is_generating":true' not in done.body
            ):  # asked so, only its first step is taken
                assert not Path(path).exists(), (number, name, done.body[:200])
            Path(path).unlink(missing_ok=True)
    assert not [path for path in uploads.rglob("*") if path.is_file() and b"my own words" in path.read_bytes()]
