"""A hub for tests, on 127.0.0.1: what the Hugging Face client needs to create a repository, commit to it and fetch."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_seededTOKENforTHEbyteSEARCH0123456789"


_COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the hub has and was asked. fails: a status to answer with, by the end of a path; holds: requests to wait for
    this before they are answered."""

    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    fails: dict[str, int] = field(default_factory=dict)
    holds: threading.Event | None = None
    sending: threading.Event = field(default_factory=threading.Event)

    def files(self, repo: str) -> dict[str, bytes]:
        return dict(self.repos[repo]["files"])


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, value: Any, status: int = 200) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _give(self, content: bytes | None) -> None:
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", f'"{sha256(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", _COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content or b"")

        def _handle(self) -> None:
            body, path = self._body(), self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            told = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if told:
                hub.tokens.add(told)
            for end, status in hub.fails.items():
                if path.endswith(end):
                    self._answer({"error": f"no: {told}"}, status)
                    return
            reads = self.command in ("GET", "HEAD") and not any(hub.repos[name]["private"] for name in hub.repos)
            if not path.startswith("/store/") and told != TOKEN and not reads:
                self._answer({"error": "Invalid credentials in Authorization header"}, 401)
                return
            self._answered(path, body)

        def _answered(self, path: str, body: bytes) -> None:
            if path == "/api/repos/create":
                told = json.loads(body)
                name = f"{told.get('organization') or 'me'}/{told['name']}"
                if name in hub.repos:
                    self._answer({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
                    return
                private = told.get("visibility") == "private" or bool(told.get("private"))
                hub.repos[name] = {"private": private, "files": {}}
                self._answer({"url": f"{hub.url}/{name}", "name": name})
            elif path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = [
                    {"path": file["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gguf")) else "regular"}
                    for file in files
                ]  # fmt: skip
                self._answer({"files": modes})
            elif path.endswith("/info/lfs/objects/batch"):
                wanted = json.loads(body)["objects"]
                self._answer({"transfer": "basic", "objects": [
                    {**one, "actions": {"upload": {"href": f"{hub.url}/store/{one['oid']}"}}} for one in wanted
                ]})  # fmt: skip
            elif path.startswith("/store/"):
                hub.sending.set()
                if hub.holds is not None:
                    hub.holds.wait(60)
                assert sha256(body).hexdigest() == path.rpartition("/")[2]
                hub.stored[path.rpartition("/")[2]] = body
                self._answer({})
            elif "/commit/" in path:
                repo = path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.repos[repo]["files"][value["path"]] = base64.b64decode(value["content"])
                    if line["key"] == "lfsFile":
                        hub.repos[repo]["files"][value["path"]] = hub.stored[value["oid"]]
                self._answer({"commitUrl": f"{hub.url}/{repo}/commit/c0ffee", "commitOid": "c0ffee"})
            elif path.startswith("/api/models/"):
                name = path.removeprefix("/api/models/")
                if name not in hub.repos:
                    self._answer({"error": "Repository not found"}, 404)
                    return
                known = hub.repos[name]
                files = [{"rfilename": file, "size": len(content)} for file, content in known["files"].items()]
                self._answer({"id": name, "private": known["private"], "sha": _COMMIT, "siblings": files})
            elif "/resolve/" in path:
                name, _, rest = path.lstrip("/").partition("/resolve/")
                self._give(hub.repos[name]["files"].get(rest.partition("/")[2]))
            else:
                self._answer({"error": f"nothing at {path}"}, 404)

        do_GET = do_POST = do_PUT = do_HEAD = _handle

    return Handler


@contextmanager
def served() -> Iterator[Hub]:
    """A hub that listens until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.holds is not None:
            hub.holds.set()
        server.shutdown()
        server.server_close()
