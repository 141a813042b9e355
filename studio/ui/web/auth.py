"""Who sent a request: the doorman of a studio that others reach. A studio of one person has none.

A visitor is known by one signed cookie: an account, or a random number for who has not signed in. `VisitorMiddleware`
reads it before anything else and says it in services/core/identity.asking. Gradio runs an event outside of the request
that asked for it, so `VisitorSessions.asking`, within which the page does every event and every step of a generator,
says it again (ui/gradio_compat/page.py).
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
_SESSIONS = 10_000  # pages whose visitor is remembered: longer than what they hold
# What whoever has not signed in to a team's studio is given.
_OPEN = ("/healthz", "/static/", "/sign-in", "/favicon.ico", "/theme.css")
# Of Gradio's own, by which events come: what tells nothing of anyone.
_HARMLESS = (protocol.INFO, protocol.STARTUP)
Mode = Literal["hosted", "team"]


class VisitorSessions:
    """Writes and reads the cookies of one studio. mode: hosted, where one may stay unknown; team, where one may not."""

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
        """The visitor whose cookie this is; NOBODY without one, or with one that is not ours, too old or signed out."""
        value = _cookies(headers).get(COOKIE, "")
        try:
            told = self._signer.loads(value, max_age=_DAYS * 86_400)
            kind, whose, name, session, *rest = map(str, told)
        except (BadData, ValueError, TypeError):
            return NOBODY
        if session in self._gone or (self.mode == "team") != whose.startswith(accounts.PREFIX):
            return NOBODY
        if kind == "anonymous":
            return Visitor(whose, "", "anonymous")
        if self.mode == "team" and not accounts.is_current(self.studio, whose, session):
            return NOBODY
        # A team's names are its accounts'; a provider's may be only what someone calls themselves.
        named = self.mode == "team" or rest == [_ADMIN]
        return Visitor(whose, name, "account", admin=named and name.lower() in self.admins)

    def new(self) -> Visitor:
        """Someone who was never here."""
        return Visitor(f"anon-{secrets.token_hex(16)}", "", "anonymous")

    def cookie(self, visitor: Visitor, headers: Headers, session: str = "") -> str:
        """The Set-Cookie that makes a visitor known, under a session of its own unless one is given."""
        told = [visitor.kind, visitor.owner, visitor.name, session or secrets.token_hex(16)]
        told += [_ADMIN] if visitor.admin else []
        return f"{COOKIE}={self._signer.dumps(told)}; Max-Age={_DAYS * 86_400}; {manner(headers)}"

    def sign_out(self, headers: Headers) -> str:
        """The Set-Cookie that forgets a visitor; the session is not taken again, should someone have kept it."""
        try:
            session = str(self._signer.loads(_cookies(headers).get(COOKIE, ""))[3])
        except (BadData, ValueError, TypeError, IndexError):
            session = ""
        if session:
            with self._lock:
                self._gone[session] = now = time.time()
                # A cookie that is too old anyway need not be remembered.
                while len(self._gone) > _SESSIONS or now - next(iter(self._gone.values())) > _DAYS * 86_400:
                    self._gone.popitem(last=False)
                write_json(self._out, self._gone)
        return f"{COOKIE}=; Max-Age=0; {manner(headers)}"

    def seal(self, value: dict[str, Any]) -> str:
        """What must come back unchanged from the browser, within ten minutes."""
        return str(URLSafeTimedSerializer(_secret(self.studio), salt="signing in").dumps(value))

    def unseal(self, text: str) -> dict[str, Any]:
        """What was sealed; nothing where it was not, or too long ago."""
        try:
            return dict(URLSafeTimedSerializer(_secret(self.studio), salt="signing in").loads(text, max_age=600))
        except (BadData, ValueError, TypeError):
            return {}

    def holds_page(self, page: str, visitor: Visitor) -> bool:
        """Whether a page, by Gradio's name for its session, is this visitor's: it is whose it was seen with first."""
        if not page:
            return True
        with self._lock:
            whose = self._pages.setdefault(page, visitor.owner)
            self._pages.move_to_end(page)
            while len(self._pages) > _SESSIONS:
                self._pages.popitem(last=False)
        return whose == visitor.owner

    @contextlib.contextmanager
    def asking(self, scope: Mapping[str, Any], page: str) -> Iterator[None]:
        """What is done within is done for whoever sent the request of this scope; NOBODY where that is lost."""
        found = scope.get(_SCOPE)
        visitor = found if isinstance(found, Visitor) else NOBODY
        if not self.holds_page(page, visitor):
            raise UnknownVisitor("This page was opened by someone else. Load it again.")
        with identity.acting(visitor):
            try:
                yield
            except gr.Error:
                raise
            except Exception as error:  # a bug, which Gradio tells to the page
                raise gr.Error(access.for_reader(self.studio, error)) from error


class VisitorMiddleware:
    """Says who sends a request, for all that is done in it; who is new at the page is given a cookie."""

    def __init__(self, app: ASGIApp, desk: VisitorSessions) -> None:
        self.app, self.desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), str(scope["path"])
        visitor, given = self.desk.known(headers), ""
        if not visitor.owner and self.desk.mode == "hosted" and path == "/" and scope.get("method") == "GET":
            visitor = self.desk.new()
            given = self.desk.cookie(visitor, headers)
        if not visitor.owner and self.desk.mode == "team" and not path.startswith(_OPEN):
            away = RedirectResponse("/sign-in", 303) if path == "/" else PlainTextResponse("Sign in first.", 401)
            await away(scope, receive, send)
            return
        if (
            not visitor.owner
            and (path.startswith(protocol.API) or scope.get("method") not in ("GET", "HEAD"))
            and (path not in ("/sign-in", *_HARMLESS))
        ):
            await PlainTextResponse(UNKNOWN, 403)(scope, receive, send)
            return
        if protocol.gives_out_a_file(path):
            # Files are given out by our own routes, which ask whose they are; Gradio's asks nobody.
            await PlainTextResponse("Not found.", 404)(scope, receive, send)
            return
        if not self.desk.holds_page(protocol.page_of(scope), visitor):
            await PlainTextResponse("This page was opened by someone else. Load it again.", 403)(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if given and message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Set-Cookie", given)
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        scope[_SCOPE] = visitor
        with identity.acting(visitor):
            await self.app(scope, receive, sending)


def manner(headers: Headers) -> str:
    """How a cookie is kept. On a Space the page stands in a frame of another site, and the cookie is for that alone."""
    https = headers.get("x-forwarded-proto", "") == "https"
    if os.environ.get("SPACE_ID") and not is_loopback(headers.get("host", "")):
        return "Path=/; HttpOnly; SameSite=None; Secure; Partitioned"
    return "Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if https else "")


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself, with a port or without."""
    return (urlsplit(f"//{host}").hostname or "") in LOOPBACK


def _cookies(headers: Headers) -> dict[str, str]:
    return HTTPConnection({"type": "http", "headers": headers.raw}).cookies


def _secret(studio: Studio) -> str:
    """What cookies are signed with: of the environment, or made once in the home, for its person only."""
    told = os.environ.get(SECRET, "")
    if len(told) >= 16:
        return told
    path = studio.settings.home / "cookie.secret"
    if not path.is_file():
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        aside.replace(path)
    return path.read_text(encoding="utf-8")
