"""Sign-in and sign-out: OpenID Connect on a Space, name and password in a team's studio.

On a Space only if its secrets are set (`openid`), and never with Gradio's mock, which gives every visitor the profile
of the machine's owner. Signing in makes someone a different visitor, with a new session; work from before stays with
the browser's cookie and is not visible to the account.
"""

import os
import threading
import time
from collections import OrderedDict, deque
from typing import Any
from urllib.parse import parse_qs

from anyio import to_thread
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.starlette_client import OAuth
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse

from studio.services.core import accounts
from studio.services.core.identity import Visitor
from studio.ui.parts.templates import render
from studio.ui.web.auth import VisitorSessions, is_loopback, manner

_STATE = "studio_signing_in"
_NEEDED = ("SPACE_ID", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OPENID_PROVIDER_URL")
_TRIES, _SECONDS, _REMEMBERED = 6, 300.0, 5000
_LONGEST_FORM = 4096
# Each password hash uses 64 MiB while it is computed.
_hashing = threading.Semaphore(2)


def openid() -> bool:
    """Whether visitors can sign in with their account: on a Space with its secrets set."""
    return all(os.environ.get(name) for name in _NEEDED)


def add_routes(app: FastAPI, desk: VisitorSessions) -> None:
    """`/sign-in`, `/sign-out` and, on a Space, `/login/callback`, to which the provider returns people."""

    @app.post("/sign-out")
    def sign_out(request: Request) -> Response:
        answer = RedirectResponse("/", 303)
        answer.headers.append("Set-Cookie", desk.sign_out(request.headers))
        return answer

    if desk.mode == "team":
        _by_password(app, desk)
    elif openid():
        _by_provider(app, desk)


def _by_provider(app: FastAPI, desk: VisitorSessions) -> None:
    oauth = OAuth()
    oauth.register(
        name="provider",
        client_id=os.environ["OAUTH_CLIENT_ID"],
        client_secret=os.environ["OAUTH_CLIENT_SECRET"],
        server_metadata_url=os.environ["OPENID_PROVIDER_URL"].rstrip("/") + "/.well-known/openid-configuration",
        client_kwargs={"scope": "openid profile", "code_challenge_method": "S256"},
    )

    @app.get("/sign-in")
    async def begin(request: Request) -> Response:
        """Redirect to the provider. The state needed on return is in a sealed cookie, for ten minutes."""
        request.scope["session"] = {}
        try:
            answer: Response = await oauth.provider.authorize_redirect(request, _way_back(request))
        except Exception:
            return _said(
                "Signing in is not possible at the moment: the provider does not respond. Try again later.", 502
            )
        state = f"{_STATE}={desk.seal(request.scope['session'])}; Max-Age=600; {manner(request.headers)}"
        answer.headers.append("Set-Cookie", state)
        return answer

    @app.get("/login/callback")
    async def back(request: Request) -> Response:
        """Return from the provider: its answer is accepted only for the attempt that this browser started."""
        request.scope["session"] = desk.unseal(request.cookies.get(_STATE, ""))
        try:
            token = await oauth.provider.authorize_access_token(request)
        except OAuthError:
            return _said("Signing in was not finished. Go back to the studio and try again.", 400)
        except Exception:
            return _said(
                "Signing in is not possible at the moment: the provider does not respond. Try again later.", 502
            )
        visitor = _visitor(desk, token.get("userinfo") or {})
        if visitor is None:
            return _said("The provider did not say who you are. Go back to the studio and try again.", 400)
        answer = RedirectResponse("/", 303)
        answer.headers.append("Set-Cookie", desk.cookie(visitor, request.headers))
        answer.headers.append("Set-Cookie", f"{_STATE}=; Max-Age=0; {manner(request.headers)}")
        return answer


def _visitor(desk: VisitorSessions, profile: dict[str, Any]) -> Visitor | None:
    """The visitor of a provider's profile. An account's id never changes, its name may.

    Admins are recognised by the account name only, since anyone may choose their display name.
    """
    subject, account = str(profile.get("sub") or ""), str(profile.get("preferred_username") or "")
    name = (account or str(profile.get("name") or subject))[:80]
    if not subject:
        return None
    return Visitor(f"account-{subject[:120]}", name, "account", admin=account.lower() in desk.admins)


def _way_back(request: Request) -> str:
    """The callback address: the Space's own address, which is behind a proxy."""
    host = os.environ.get("SPACE_HOST", "") or request.headers.get("host", "")
    scheme = "http" if is_loopback(host) else "https"
    return f"{scheme}://{host}/login/callback"


def _by_password(app: FastAPI, desk: VisitorSessions) -> None:
    tries = _Tries()

    @app.get("/sign-in")
    def form() -> HTMLResponse:
        return _form()

    @app.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_FORM:
                return PlainTextResponse("This form is too long.", 413)
        given = parse_qs(body.decode("utf-8", errors="replace"))
        name, password = given.get("name", [""])[0], given.get("password", [""])[0]
        client = request.client.host if request.client else ""
        if not tries.may(client, name):
            return _form("Too many attempts. Wait a few minutes.", 429)
        visitor = await to_thread.run_sync(_verified, desk, name, password)
        if visitor is None:
            tries.failed(client, name)
            return _form("Wrong name or password.", 401)
        answer = RedirectResponse("/", 303)
        answer.headers.append("Set-Cookie", desk.cookie(visitor, request.headers, accounts.session()))
        return answer


def _verified(desk: VisitorSessions, name: str, password: str) -> Visitor | None:
    with _hashing:
        return accounts.sign_in(desk.studio, name, password)


class _Tries:
    """Recent failed attempts, by client address and by name."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def may(self, client: str, name: str) -> bool:
        since = time.monotonic() - _SECONDS
        return all(sum(at > since for at in self._failed.get(key, ())) < _TRIES for key in self._keys(client, name))

    def failed(self, client: str, name: str) -> None:
        for key in self._keys(client, name):
            self._failed.setdefault(key, deque(maxlen=_TRIES)).append(time.monotonic())
            self._failed.move_to_end(key)
        while len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)

    @staticmethod
    def _keys(client: str, name: str) -> tuple[str, ...]:
        return f"from {client}", f"as {name.lower()[:60]}"


def _said(text: str, status: int) -> HTMLResponse:
    return _page(render("web/sign_in_message.html", text=text), status)


def _form(problem: str = "", status: int = 200) -> HTMLResponse:
    return _page(render("web/sign_in_form.html", problem=problem), status)


def _page(html: str, status: int) -> HTMLResponse:
    return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})
