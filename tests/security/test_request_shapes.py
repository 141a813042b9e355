"""Every shape in which a page elsewhere can send a request, at everything that changes or tells something.

In each shape everything of WANTED is asked: nothing of what is kept changes, and no answer holds a word of it. The same
requests are then sent as the page itself sends them, so that it is known that they would have worked.
"""

import pytest

from tests.security.conftest import SECRET, House, told

FORM = "application/x-www-form-urlencoded"
MULTIPART = 'multipart/form-data; boundary="b"'
EVIL = "http://evil.example"
UPLOAD = (
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"
)


def wanted(house: House) -> list[tuple[str, str, bytes, str]]:
    """Method, path, body and the type it is sent with by the page itself."""
    join = told({"data": [], "fn_index": 0, "session_hash": "abc", "event_data": None, "trigger_id": 1})
    return [
        ("POST", f"/runs/{house.run}", told({"name": "taken"}), "application/json"),
        ("POST", f"/runs/{house.run}", told({"trashed": True}), "application/json"),
        ("POST", "/trash", told({"runs": [house.run]}), "application/json"),
        ("POST", "/gradio_api/upload", UPLOAD, MULTIPART),
        ("POST", "/gradio_api/queue/join", join, "application/json"),
        ("POST", "/gradio_api/run/predict", join, "application/json"),
        ("GET", "/runs.json", b"", ""),
        ("GET", f"/runs/{house.run}.json", b"", ""),
        ("GET", f"/points/{house.run}.csv", b"", ""),
        ("GET", f"/curves/{house.run}", b"", ""),
        ("GET", "/config", b"", ""),
        ("GET", "/gradio_api/queue/data?session_hash=abc", b"", ""),
        ("GET", "/gradio_api/heartbeat/abc", b"", ""),
        ("GET", "/logout", b"", ""),
    ]


def fetch(site: str, mode: str, dest: str = "empty", origin: str | None = None, **more: str) -> dict[str, str]:
    """The headers a browser adds by itself."""
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    return headers | ({"Origin": origin} if origin is not None else {}) | more


def shapes(port: int) -> dict[str, dict[str, str] | list[tuple[str, str]]]:
    own = f"127.0.0.1:{port}"
    other = "http://127.0.0.1:9"
    return {
        "a foreign origin": {"Origin": EVIL},
        "a foreign origin over https": {"Origin": "https://evil.example"},
        "a null origin (a sandboxed frame, a file)": {"Origin": "null"},
        "an empty origin": {"Origin": ""},
        "an origin on another port of this machine": {"Origin": other},
        "an origin without the port": {"Origin": "http://127.0.0.1"},
        "an origin that begins like ours": {"Origin": f"http://{own}.evil.example"},
        "an origin with ours as its user": {"Origin": f"http://{own}@evil.example"},
        "an origin with ours as its path": {"Origin": f"http://evil.example/{own}"},
        "an origin with a foreign user": {"Origin": f"http://evil@{own}"},
        "an origin of another scheme": {"Origin": f"ftp://{own}"},
        "an extension's origin": {"Origin": "chrome-extension://abcdefghijklmnop"},
        "a file's origin": {"Origin": "file://"},
        "two origins in one": {"Origin": f"http://{own} {EVIL}"},
        "two origins": [("Origin", f"http://{own}"), ("Origin", EVIL)],
        "localhost for 127.0.0.1": {"Origin": f"http://localhost:{port}"},
        "a rebinding name": {"Host": f"evil.example:{port}"},
        "a rebinding name with its own origin": {"Host": "evil.example", "Origin": EVIL},
        "a rebinding name, same-origin as it sees it": {"Host": "evil.example"} | fetch("same-origin", "cors"),
        "a name below localhost": {"Host": f"evil.localhost:{port}"},
        "a name that begins like ours": {"Host": f"127.0.0.1.evil.example:{port}"},
        "a name of this machine by DNS": {"Host": f"127-0-0-1.evil.example:{port}"},
        "a host with a trailing dot": {"Host": f"localhost.:{port}"},
        "a host with a user": {"Host": f"evil@127.0.0.1:{port}"},
        "a foreign host with ours as its user": {"Host": "127.0.0.1@evil.example"},
        "a host with a path": {"Host": f"127.0.0.1:{port}/x"},
        "a host with white space": {"Host": "127.0.0.1 evil.example"},
        "a host with a comma": {"Host": "127.0.0.1,evil.example"},
        "a host with a port of letters": {"Host": "127.0.0.1:abc"},
        "a host with a port too high": {"Host": "127.0.0.1:99999"},
        "the machine's decimal address": {"Host": f"2130706433:{port}"},
        "the machine's short address": {"Host": f"127.1:{port}"},
        "all addresses": {"Host": f"0.0.0.0:{port}"},
        "all addresses, as IPv6": {"Host": f"[::]:{port}"},
        "an empty host": {"Host": ""},
        "two hosts": [("Host", own), ("Host", "evil.example")],
        "a forwarded host": {"Host": "evil.example", "X-Forwarded-Host": own},
        "fetch with cors": fetch("cross-site", "cors", origin=EVIL),
        "fetch without cors": fetch("cross-site", "no-cors"),
        "fetch without cors from another port": fetch("same-site", "no-cors"),
        "fetch from another port": fetch("same-site", "cors", origin=other),
        "an image": fetch("cross-site", "no-cors", "image"),
        "a script": fetch("cross-site", "no-cors", "script"),
        "a style sheet": fetch("cross-site", "no-cors", "style"),
        "a worker": fetch("cross-site", "same-origin", "worker"),
        "a beacon": fetch("cross-site", "no-cors", "empty", EVIL),
        "a ping": fetch("cross-site", "no-cors", "empty", "null"),
        "a frame": fetch("cross-site", "navigate", "iframe"),
        "an embed": fetch("cross-site", "navigate", "embed"),
        "an object": fetch("same-site", "navigate", "object"),
        "a link to what is no page": fetch("cross-site", "navigate", "document"),
        "an event stream": fetch("cross-site", "cors", origin=EVIL, Accept="text/event-stream"),
        "an event stream from another port": fetch("same-site", "cors", origin=other, Accept="text/event-stream"),
        "a websocket": {"Origin": EVIL, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        "a websocket without an origin": {"Upgrade": "websocket", "Connection": "Upgrade",
                                          "Sec-WebSocket-Version": "13",
                                          "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        "a form": fetch("cross-site", "navigate", "document", EVIL) | {"Content-Type": FORM},
        "a form of plain text": fetch("cross-site", "navigate", "document", EVIL) | {"Content-Type": "text/plain"},
        "a form in parts": fetch("cross-site", "navigate", "document", EVIL) | {"Content-Type": MULTIPART},
        "a form, by an old browser": {"Origin": EVIL, "Content-Type": FORM},
        "a form in parts, by an old browser": {"Origin": EVIL, "Content-Type": MULTIPART},
        "a form of a sandboxed frame": {"Origin": "null", "Content-Type": "text/plain"},
        "plain text without cors": fetch("cross-site", "no-cors") | {"Content-Type": "text/plain"},
        "no type at all": fetch("cross-site", "no-cors", origin=EVIL) | {"Content-Type": ""},
        "another method by header": fetch("cross-site", "no-cors") | {"X-HTTP-Method-Override": "POST"},
        "another address by header": {"Origin": EVIL, "X-Original-URL": "/runs.json", "X-Rewrite-URL": "/runs.json"},
        "a site that lies about itself": fetch("same-origin", "cors", origin=EVIL),
        "an unheard-of site": fetch("nearby", "cors"),
        "two sites": [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
    }  # fmt: skip


SHAPES = sorted(shapes(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_foreign_page_changes_nothing_and_reads_nothing(house: House, shape: str) -> None:
    headers = shapes(house.port)[shape]
    before = house.state()
    for method, path, body, kind in wanted(house):
        given = list(headers.items()) if isinstance(headers, dict) else list(headers)
        if kind and not any(name == "Content-Type" for name, _ in given):
            given.append(("Content-Type", kind))
        answer = house.ask(method, path, given, body)
        assert answer.status in (400, 403, 404), (method, path, answer)
        assert SECRET.encode() not in answer.body and b"event_id" not in answer.body, (method, path)
        assert not any(name.startswith("access-control-") for name in answer.headers), answer.headers
    assert house.state() == before


def test_there_are_enough_of_them() -> None:
    assert len(SHAPES) >= 40


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND"])
def test_no_preflight_is_granted_and_no_other_method_does_anything(house: House, method: str) -> None:
    before = house.state()
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin in (EVIL, "null", f"http://127.0.0.1:{house.port}"):
        for _, path, body, kind in wanted(house):
            answer = house.ask(method, path, {"Origin": origin, "Content-Type": kind or FORM, **asks}, body)
            assert answer.status in (400, 403, 404, 405), (method, path, answer)
            assert not any(name.startswith("access-control-") for name in answer.headers)
    assert house.state() == before


def test_the_same_requests_of_the_page_itself_are_answered(house: House) -> None:
    own = fetch("same-origin", "cors", origin=f"http://{house.host}")
    for method, path, body, kind in wanted(house)[6:11]:
        answer = house.ask(method, path, {**own, "Content-Type": kind} if kind else own, body)
        assert answer.status == 200, (path, answer)
    for headers in ({}, own, {"Host": f"localhost:{house.port}"}, {"Host": f"LOCALHOST:{house.port}"},
                    {"Host": "[::1]"}, fetch("none", "navigate", "document")):  # fmt: skip
        assert SECRET.encode() in house.ask("GET", "/runs.json", headers).body
    before = house.state()
    done = house.ask("POST", f"/runs/{house.run}", {**own, "Content-Type": "application/json"}, told({"notes": "own"}))
    assert done.status == 200 and house.state() != before
    sent = house.ask("POST", "/gradio_api/upload", {**own, "Content-Type": MULTIPART}, UPLOAD)
    assert sent.status == 200 and sent.body.endswith(b'x.txt"]')


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "same-origin"])
def test_a_link_from_elsewhere_opens_the_page(house: House, site: str) -> None:
    answer = house.ask("GET", "/?run=x", fetch(site, "navigate", "document"))
    assert answer.status == 200 and answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
