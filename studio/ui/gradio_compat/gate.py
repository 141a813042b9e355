"""A gate in front of Gradio that passes only what the studio's page needs.

Gradio includes routes that fetch URLs, serve files by path, record runs, edit the application and more. The gate passes
the requests listed here to the mounted Gradio application and answers all others with 404. The page itself gets a nonce
for the scripts that Gradio writes into it, so that no other script in it can run.
"""

import re
import secrets
import traceback
from typing import Any

from fastapi import FastAPI
from gradio.route_utils import FnIndexInferError, get_fn
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.ui.gradio_compat.sessions import use_small_sessions
from studio.ui.web.guard import Policy, content_policy

RELIES_ON = {
    "gradio.routes.App.get_blocks(self)": "nothing would stand before Gradio's routes",
    "starlette.routing.Mount().app": "nothing would stand before Gradio's routes",
    "gradio.route_utils.get_fn": "an event of an unknown name would be answered as a fault",
    "gradio.route_utils.FnIndexInferError": "an event of an unknown name would be answered as a fault",
}
_NAME = r"[A-Za-z0-9_.-]{1,128}"
# Requests of the page and of gradio_client. tests/security/test_endpoints.py explains why each is needed.
NEEDED = {
    "GET": (
        r"/", r"/config/?", r"/theme\.css", r"/favicon\.ico", r"/robots\.txt", r"/manifest\.json",
        r"/assets/[A-Za-z0-9_./@-]{1,200}", r"/static/[A-Za-z0-9_./@-]{1,200}",
        r"/login/huggingface/?", r"/login/callback/?", r"/logout/?",
        r"/gradio_api/info/?", r"/gradio_api/theme\.css", r"/gradio_api/startup-events",
        r"/gradio_api/app_id/?", r"/gradio_api/queue/data", rf"/gradio_api/heartbeat/{_NAME}",
        rf"/gradio_api/call/{_NAME}/{_NAME}", r"/gradio_api/upload_progress", r"/gradio_api/login_check/?",
        r"/gradio_api/user/?",
    ),
    "POST": (
        r"/login/?", r"/gradio_api/queue/join", rf"/gradio_api/run/{_NAME}/?", rf"/gradio_api/call/{_NAME}/?",
        r"/gradio_api/upload", r"/gradio_api/cancel", r"/gradio_api/reset/?",
    ),
}  # fmt: skip
_PATTERNS = {method: re.compile("|".join(paths)) for method, paths in NEEDED.items()}
_NOTHING = "There is nothing here."
_SCRIPT = re.compile(rb"<script(?=[\s>])", re.IGNORECASE)


def needed(method: str, path: str) -> bool:
    """Whether the page needs this request."""
    pattern = _PATTERNS.get("GET" if method == "HEAD" else method)
    return pattern is not None and ".." not in path and pattern.fullmatch(path) is not None


class Gate:
    """Gradio's application, limited to the requests that are needed."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app, self.policy = app, policy

    @property
    def routes(self) -> list[object]:
        return list(getattr(self.app, "routes", []))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path, method = str(scope["path"]), str(scope["method"])
            if not needed(method, path):
                await PlainTextResponse(_NOTHING, status_code=404)(scope, receive, send)
                return
            if path == "/" and method == "GET":
                await self._page(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the page with a nonce on the scripts that Gradio wrote into it."""
        nonce = secrets.token_urlsafe(16)
        start: Message = {}
        parts: list[bytes] = []
        # A compressed page could not be read here.
        headers = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body = b"".join(parts)
            answer_headers = MutableHeaders(scope=start)
            if answer_headers.get("content-type", "").startswith("text/html"):
                # Text from people and models is in the page as JSON with `<` escaped, so these tags are Gradio's.
                body = _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), body)
                frames = "https://huggingface.co" if self.policy.hosted else "'self'"
                answer_headers["Content-Security-Policy"] = content_policy(frames, nonce)
                answer_headers["Cache-Control"] = "no-store"
                answer_headers["Content-Length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app({**scope, "headers": headers}, receive, marked)


def restrict(app: FastAPI, policy: Policy) -> FastAPI:
    """Put the gate in front of the Gradio application mounted in `app`.

    Also makes its sessions small and turns requests that would crash it into errors.
    """
    for route in app.routes:
        if isinstance(route, Mount) and hasattr(route.app, "get_blocks"):
            gradio: Any = route.app
            use_small_sessions(gradio)
            for error in (FnIndexInferError, KeyError):
                gradio.add_exception_handler(error, _not_there)
            gradio.add_exception_handler(UnicodeEncodeError, _no_text)
            route.app = Gate(gradio, policy)
    return app


def _not_there(_: Request, error: Exception) -> Response:
    """An event with an unknown name or number; Gradio would answer 500."""
    if all(frame.f_code is not get_fn.__code__ for frame, _line in traceback.walk_tb(error.__traceback__)):
        raise error
    return PlainTextResponse(_NOTHING, status_code=404)


def _no_text(_: Request, __: Exception) -> Response:
    """A lone surrogate in a text, which Gradio could not encode in its answer."""
    return PlainTextResponse("What was sent is no text: it holds half of a character.", status_code=400)
