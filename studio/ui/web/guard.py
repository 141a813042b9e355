"""The request guard in front of the whole studio: no other site can drive the studio or read from it.

It answers only under its own host names (a foreign name that resolves here is DNS rebinding), accepts from other sites
only links that open the page, limits the size of requests and how often one client may send them, and sets headers
with which browsers keep other sites from embedding or reading its responses. docs/security.md lists what is refused
and why.
"""

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.settings import LOOPBACK, Settings
from studio.ui.gradio_compat.protocol import UPLOAD
from studio.ui.web.rate_limits import Bounded, Buckets

SAFE = frozenset({"GET", "HEAD"})
# What a link from another site may open: the page, and the callback of a login service.
ENTRANCES = re.compile(r"/|/login/callback/?")
# Static files of the page: a page requests a hundred at once, and they are cheap.
_FILES = ("/assets/", "/static/")

_NOT_HERE = "This studio answers only under its own host name."
_ELSEWHERE = "This studio takes no requests from other sites."
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*))(?::(?P<port>\d{1,5}))?")
_FORWARDED = (b"forwarded", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for", b"x-forwarded-port",
              b"x-forwarded-prefix", b"x-original-url", b"x-rewrite-url", b"x-http-method-override")  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What one studio accepts.

    hosts: names it answers under. addresses: it is reached over the network, so any IP address that leads to it is its
    own; a name is not, since anyone can point theirs here. hosted: it is a Space, whose page huggingface.co shows in a
    frame. proxied: the headers of a proxy are trusted. max_body, max_upload: most bytes of a request and of an upload.
    rate: requests per second that one client may sustain, with a burst of ten seconds' worth; 0 for no limit.
    """

    hosts: frozenset[str]
    addresses: bool = False
    hosted: bool = False
    proxied: bool = False
    max_body: int = 8 * 2**20
    max_upload: int = 512 * 2**20
    rate: float = 0.0

    @classmethod
    def of(cls, settings: Settings, env: Mapping[str, str] | None = None) -> Self:
        env = os.environ if env is None else env
        hosted = bool(env.get("SPACE_ID"))
        more = _names(settings.hosts) | (_names(env.get("SPACE_HOST", "")) if hosted else set())
        return cls(
            hosts=LOOPBACK | {settings.host.lower()} | more,
            addresses=settings.host not in LOOPBACK,
            hosted=hosted,
            proxied=bool(more),
            max_upload=settings.max_file_mb * 2**20 + 2**20,
            rate=float(settings.requests_per_second),
        )


def _names(text: str) -> set[str]:
    return {name.strip().lower() for name in text.split(",") if name.strip()}


@dataclass
class Guard:
    """The middleware; `policy` says what it accepts."""

    app: ASGIApp
    policy: Policy
    buckets: Buckets = field(init=False)

    def __post_init__(self) -> None:
        self.buckets = Buckets(self.policy.rate, 10 * self.policy.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the studio uses no websockets, so this is not one of its pages
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = self._with_headers(scope, send)
        status, reason = self.verdict(scope)
        if reason:
            await _refuse(status, reason)(scope, receive, send)
            return
        scope = self._with_proxy(scope)
        most = self.policy.max_upload if scope["path"] == UPLOAD else self.policy.max_body
        await Bounded(self.app, most)(scope, receive, send)

    def verdict(self, scope: Scope) -> tuple[int, str]:
        """The status and message with which a request is refused; the message is empty if it is accepted."""
        headers, path, method = Headers(scope=scope), str(scope["path"]), str(scope["method"])
        reason = self.refusal(headers, method, path)
        if reason:
            return 403, reason
        if not path.startswith(_FILES) and not self.buckets.take(self._client(scope, headers)):
            return 429, "Too many requests from your address. Wait a moment."
        length = headers.get("content-length", "0")
        most = self.policy.max_upload if path == UPLOAD else self.policy.max_body
        if not length.isascii() or not length.isdigit():
            return 400, "The request has no valid Content-Length."
        if int(length) > most:
            return 413, f"At most {most / 2**20:,.0f} MiB may be sent here."
        return 200, ""

    def refusal(self, headers: Headers, method: str, path: str = "/") -> str:
        """Why a request with these headers is refused; empty if it is not."""
        if any(len(headers.getlist(name)) > 1 for name in ("host", "origin", "sec-fetch-site", "content-length")):
            return _ELSEWHERE
        host = headers.get("host", "")
        if not path.startswith("/") or not self._is_here(host, headers):
            return _NOT_HERE
        if "upgrade" in headers:
            return "This studio has no websockets."
        origin = headers.get("origin")
        if origin is not None and not _same(origin, host):
            return _ELSEWHERE
        site = headers.get("sec-fetch-site", "")
        # "none" is a person who typed an address or opened a bookmark; no page can send it.
        if site in ("", "same-origin") or (site == "none" and method in SAFE):
            return ""
        return "" if self._opens(headers, method, path) else _ELSEWHERE

    def _is_here(self, host: str, headers: Headers) -> bool:
        """Whether a Host header, and the host given by a proxy, are ours."""
        asked = [host]
        if self.policy.proxied:
            asked += headers.get("x-forwarded-host", host).split(",")
        return all(self._known(name.strip().lower()) for name in asked)

    def _known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None or int(match["port"] or 0) > 65535:
            return False
        name = match["six"] or match["name"]
        return name in self.policy.hosts or (self.policy.addresses and _is_address(name))

    def _opens(self, headers: Headers, method: str, path: str) -> bool:
        """Whether it is a link from another site that opens the page: in a window, or in the frame of a Space."""
        shown = ("document", "iframe") if self.policy.hosted else ("document",)
        return (
            method in SAFE
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest", "document") in shown
            and ENTRANCES.fullmatch(path) is not None
        )

    def _client(self, scope: Scope, headers: Headers) -> str:
        """The client's address; with a trusted proxy, the address the proxy reports."""
        forwarded_for = headers.get("x-forwarded-for", "") if self.policy.proxied else ""
        return forwarded_for.partition(",")[0].strip()[:64] or str((scope.get("client") or ("",))[0])

    def _with_proxy(self, scope: Scope) -> Scope:
        """The request with the proxy's scheme and client applied, or without proxy headers if no proxy is trusted."""
        if not self.policy.proxied:
            return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in _FORWARDED]}
        headers = Headers(scope=scope)
        scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        scheme_update = {"scheme": scheme} if scheme in ("http", "https") else {}
        return {**scope, **scheme_update, "client": (self._client(scope, headers), 0)}

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        """`send`, with the headers that keep other sites away from every response."""
        frames = "https://huggingface.co" if self.policy.hosted else "'self'"

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not self.policy.hosted:
                    headers.setdefault("X-Frame-Options", "SAMEORIGIN")
                is_page = headers.get("content-type", "").startswith("text/html")
                headers.setdefault("Content-Security-Policy", content_policy(frames) if is_page else _NO_PAGE)
            await send(message)

        return sealed


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=(), payment=(), usb=(), "
    "serial=(), midi=(), browsing-topics=()",
    "X-Permitted-Cross-Domain-Policies": "none",
}
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'; sandbox"


def content_policy(frames: str, nonce: str = "") -> str:
    """The content security policy: a page may load only our own files and inline scripts that carry the nonce.

    'unsafe-eval' is needed by Gradio, which compiles the scripts of its HTML components. It does not help a script
    injected through a name or a row, which would have to run already to make use of it.
    """
    scripts = f"'self' 'nonce-{nonce}' 'unsafe-eval'" if nonce else "'self'"
    return "; ".join((
        "default-src 'self'", f"script-src {scripts}", "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:", "font-src 'self' data:", "media-src 'self' blob: data:",
        "connect-src 'self'", "worker-src 'self' blob:", "frame-src 'none'", "object-src 'none'", "base-uri 'self'",
        "form-action 'self'", f"frame-ancestors {frames}",
    ))  # fmt: skip


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _same(origin: str, host: str) -> bool:
    """Whether an Origin header names the host that the request is for."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or origin.lower() != f"{parts.scheme}://{parts.netloc.lower()}":
        return False
    default = {"http": 80, "https": 443}[parts.scheme]
    bare = host.lower()
    return parts.netloc.lower() in (bare, bare.removesuffix(f":{default}")) or (
        port == default and parts.netloc.lower().removesuffix(f":{default}") == bare
    )


def _refuse(status: int, reason: str) -> PlainTextResponse:
    headers = {"Connection": "close", "Cache-Control": "no-store"} | ({"Retry-After": "1"} if status == 429 else {})
    return PlainTextResponse(reason, status_code=status, headers=headers)
