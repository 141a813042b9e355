"""Visitor identification for a shared studio. A single-user studio does not use it.

A visitor is identified by one signed cookie: an account, or a random number for a visitor who has not signed in.
`VisitorMiddleware` reads it first and sets it as the acting visitor (services/core/identity.py). Gradio runs events
outside the request that triggered them, so the page runs every event and every step of a generator within
`VisitorSessions.asking`, which sets the visitor again (ui/gradio_compat/page.py).
"""

import contextlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import gradio as gr
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.rundir import read_json, write_json
from studio.services.core import access, accounts, identity
from studio.services.core.identity import NOBODY, UNKNOWN, UnknownVisitor, Visitor
from studio.services.core.studio import Studio
from studio.settings import LOOPBACK
from studio.ui.gradio_compat import protocol

COOKIE = "studio_visitor"
SECRET = "STUDIO_COOKIE_SECRET"  # noqa: S105 the name of a variable
_DAYS = 7
_ADMIN = "admin"
_SCOPE = "studio.visitor"
_SESSIONS = 10_000  # pages whose visitor is remembered: more than the pages whose state is kept
# Paths of a team's studio that need no sign-in.
_OPEN = ("/healthz", "/static/", "/sign-in", "/favicon.ico", "/theme.css")
# Gradio's own paths that reveal nothing about any visitor.
_HARMLESS = (protocol.INFO, protocol.STARTUP)
Mode = Literal["hosted", "team"]


class VisitorSessions:
    """Writes and reads the visitor cookies of one studio.

    mode: hosted, where visitors may stay anonymous; team, where they must sign in.
    """

    def __init__(self, studio: Studio, mode: Mode) -> None:
        self.studio = studio
        self.mode = mode
        self.admins = {name.strip().lower() for name in studio.settings.admins.split(",") if name.strip()}
        self._signer = URLSafeTimedSerializer(_secret(studio), salt="visitor")
        self._out = studio.settings.home / "signed-out.json"
        self._gone: OrderedDict[str, float] = OrderedDict(read_json(self._out) or {})
        self._pages: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, headers: Headers) -> Visitor:
        """The visitor of this cookie; NOBODY if it is missing, not ours, expired or signed out."""
        value = _cookies(headers).get(COOKIE, "")
        try:
            payload = self._signer.loads(value, max_age=_DAYS * 86_400)
            kind, owner, name, session, *rest = map(str, payload)
        except (BadData, ValueError, TypeError):
            return NOBODY
        if session in self._gone or (self.mode == "team") != owner.startswith(accounts.PREFIX):
            return NOBODY
        if kind == "anonymous":
            return Visitor(owner, "", "anonymous")
        if self.mode == "team" and not accounts.is_current(self.studio, owner, session):
            return NOBODY
        # A team's names are account names; a provider's name may be self-chosen, so only the admin mark counts.
        named = self.mode == "team" or rest == [_ADMIN]
        return Visitor(owner, name, "account", admin=named and name.lower() in self.admins)

    def new(self) -> Visitor:
        """A new anonymous visitor."""
        return Visitor(f"anon-{secrets.token_hex(16)}", "", "anonymous")

    def cookie(self, visitor: Visitor, headers: Headers, session: str = "") -> str:
        """The Set-Cookie value that identifies a visitor, with a new session unless one is given."""
        payload = [visitor.kind, visitor.owner, visitor.name, session or secrets.token_hex(16)]
        payload += [_ADMIN] if visitor.admin else []
        return f"{COOKIE}={self._signer.dumps(payload)}; Max-Age={_DAYS * 86_400}; {manner(headers)}"

    def sign_out(self, headers: Headers) -> str:
        """The Set-Cookie value that signs a visitor out.

        The session is rejected from then on, in case someone kept a copy of the cookie.
        """
        try:
            session = str(self._signer.loads(_cookies(headers).get(COOKIE, ""))[3])
        except (BadData, ValueError, TypeError, IndexError):
            session = ""
        if session:
            with self._lock:
                self._gone[session] = now = time.time()
                # Sessions whose cookies have expired need not be remembered.
                while len(self._gone) > _SESSIONS or now - next(iter(self._gone.values())) > _DAYS * 86_400:
                    self._gone.popitem(last=False)
                write_json(self._out, self._gone)
        return f"{COOKIE}=; Max-Age=0; {manner(headers)}"

    def seal(self, value: dict[str, Any]) -> str:
        """Sign a value that must come back from the browser unchanged, within ten minutes."""
        return str(URLSafeTimedSerializer(_secret(self.studio), salt="signing in").dumps(value))

    def unseal(self, text: str) -> dict[str, Any]:
        """The sealed value; empty if the signature is invalid or older than ten minutes."""
        try:
            return dict(URLSafeTimedSerializer(_secret(self.studio), salt="signing in").loads(text, max_age=600))
        except (BadData, ValueError, TypeError):
            return {}

    def holds_page(self, page: str, visitor: Visitor) -> bool:
        """Whether a page, by Gradio's session name, belongs to this visitor: the first visitor seen with it owns it."""
        if not page:
            return True
        with self._lock:
            owner = self._pages.setdefault(page, visitor.owner)
            self._pages.move_to_end(page)
            while len(self._pages) > _SESSIONS:
                self._pages.popitem(last=False)
        return owner == visitor.owner

    @contextlib.contextmanager
    def asking(self, scope: Mapping[str, Any], page: str) -> Iterator[None]:
        """Act as the visitor of the request with this scope; as NOBODY if the scope is lost."""
        scope_visitor = scope.get(_SCOPE)
        visitor = scope_visitor if isinstance(scope_visitor, Visitor) else NOBODY
        if not self.holds_page(page, visitor):
            raise UnknownVisitor("This page was opened by someone else. Load it again.")
        with identity.acting(visitor):
            try:
                yield
            except gr.Error:
                raise
            except Exception as error:  # a bug, whose message Gradio shows on the page
                raise gr.Error(access.for_reader(self.studio, error)) from error


class VisitorMiddleware:
    """Sets the visitor for each request; a new visitor to the page receives a cookie."""

    def __init__(self, app: ASGIApp, desk: VisitorSessions) -> None:
        self.app, self.desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), str(scope["path"])
        visitor, new_cookie = self.desk.known(headers), ""
        if not visitor.owner and self.desk.mode == "hosted" and path == "/" and scope.get("method") == "GET":
            visitor = self.desk.new()
            new_cookie = self.desk.cookie(visitor, headers)
        if not visitor.owner and self.desk.mode == "team" and not path.startswith(_OPEN):
            response = RedirectResponse("/sign-in", 303) if path == "/" else PlainTextResponse("Sign in first.", 401)
            await response(scope, receive, send)
            return
        if (
            not visitor.owner
            and (path.startswith(protocol.API) or scope.get("method") not in ("GET", "HEAD"))
            and (path not in ("/sign-in", *_HARMLESS))
        ):
            await PlainTextResponse(UNKNOWN, 403)(scope, receive, send)
            return
        if protocol.gives_out_a_file(path):
            # Files are served by our own routes, which check the owner; Gradio's file route does not.
            await PlainTextResponse("Not found.", 404)(scope, receive, send)
            return
        if not self.desk.holds_page(protocol.page_of(scope), visitor):
            await PlainTextResponse("This page was opened by someone else. Load it again.", 403)(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if new_cookie and message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Set-Cookie", new_cookie)
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        scope[_SCOPE] = visitor
        with identity.acting(visitor):
            await self.app(scope, receive, sending)


def manner(headers: Headers) -> str:
    """The attributes of a cookie. On a Space the page is in a frame of another site, to which the cookie is limited."""
    https = headers.get("x-forwarded-proto", "") == "https"
    if os.environ.get("SPACE_ID") and not is_loopback(headers.get("host", "")):
        return "Path=/; HttpOnly; SameSite=None; Secure; Partitioned"
    return "Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if https else "")


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself, with or without a port."""
    return (urlsplit(f"//{host}").hostname or "") in LOOPBACK


def _cookies(headers: Headers) -> dict[str, str]:
    return HTTPConnection({"type": "http", "headers": headers.raw}).cookies


def _secret(studio: Studio) -> str:
    """The key that signs cookies: from the environment, or generated once in the home, readable only by its owner."""
    secret = os.environ.get(SECRET, "")
    if len(secret) >= 16:
        return secret
    path = studio.settings.home / "cookie.secret"
    if not path.is_file():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        temporary.replace(path)
    return path.read_text(encoding="utf-8")
