"""A provider that speaks OpenID Connect, for tests, on 127.0.0.1: discovery, authorize, token, userinfo, jwks.

Who signs in is chosen on its page, as if they had an account there. It checks what a provider must: the redirect, the
client's secret, that a code is used once and with the verifier of its challenge.
"""

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "the-space", "the-secret-of-the-space"
ACCOUNTS = {"ann": "1001", "ben": "1002", "host": "1000"}


@dataclass
class Provider:
    """What it was asked. codes: those given out and not used yet; nonce: given instead of the one asked for."""

    url: str = ""
    redirect: str = ""
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"}))

    def environment(self) -> dict[str, str]:
        """What a Space tells its app of its provider."""
        return {
            "OAUTH_CLIENT_ID": CLIENT,
            "OAUTH_CLIENT_SECRET": SECRET,
            "OAUTH_SCOPES": "openid profile",
            "OPENID_PROVIDER_URL": self.url,
            "AUTHLIB_INSECURE_TRANSPORT": "1",
        }


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            provider.asked.append(address.path)
            if address.path == "/.well-known/openid-configuration":
                self._json(_discovery(provider.url))
            elif address.path == "/jwks":
                self._json({"keys": [provider.key.as_dict(private=False)]})
            elif address.path == "/authorize":
                self._authorize(asked)
            elif address.path == "/userinfo":
                name = provider.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
                self._json(_claims(name)) if name else self._json({"error": "invalid_token"}, 401)
            else:
                self._json({"error": "not found"}, 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            given = {name: values[0] for name, values in parse_qs(body).items()}
            provider.asked.append(self.path)
            if self.path == "/token":
                self._token(given)
            else:
                self._json({"error": "not found"}, 404)

        def _authorize(self, asked: dict[str, str]) -> None:
            redirect = asked.get("redirect_uri", "")
            fault = (
                "client" if asked.get("client_id") != CLIENT
                else "redirect" if not redirect.startswith(provider.redirect)
                else "state" if not asked.get("state") or not asked.get("nonce")
                else "challenge" if asked.get("code_challenge_method") != "S256"
                else ""
            )  # fmt: skip
            if fault:
                self._json({"error": fault}, 400)
                return
            choices = []
            for name in ACCOUNTS:
                code = secrets.token_urlsafe(24)
                provider.codes[code] = {"name": name, **asked}
                target = f"{redirect}?{urlencode({'code': code, 'state': asked['state']})}"
                choices.append(f'<p><a id="as-{name}" href="{html.escape(target)}">{name}</a></p>')
            self._send(200, "text/html", "".join(choices).encode())

        def _token(self, given: dict[str, str]) -> None:
            basic = self.headers.get("Authorization", "").removeprefix("Basic ")
            secret = (
                base64.b64decode(basic).decode() if basic else f"{given.get('client_id')}:{given.get('client_secret')}"
            )
            told = provider.codes.pop(given.get("code", ""), None)
            verifier = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
            if secret != f"{CLIENT}:{SECRET}" or told is None or told["code_challenge"] != challenge:
                self._json({"error": "invalid_grant"}, 400)
                return
            now, token = int(time.time()), secrets.token_urlsafe(24)
            provider.tokens[token] = told["name"]
            claims = {
                "iss": provider.url, "aud": CLIENT, "iat": now, "exp": now + 600,
                "nonce": provider.nonce or told["nonce"], **_claims(told["name"]),
            }  # fmt: skip
            signed = jwt.encode({"alg": "RS256", "kid": "one"}, claims, provider.key)
            self._json({"access_token": token, "token_type": "bearer", "expires_in": 600, "id_token": signed})

        def _json(self, value: dict[str, Any], status: int = 200) -> None:
            self._send(status, "application/json", json.dumps(value).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _discovery(url: str) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "userinfo_endpoint": f"{url}/userinfo",
        "jwks_uri": f"{url}/jwks",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
    }


def _claims(name: str) -> dict[str, str]:
    return {"sub": ACCOUNTS[name], "name": name.title(), "preferred_username": name}


@contextmanager
def provider(redirect: str = "http://127.0.0.1") -> Iterator[Provider]:
    """A provider that sends people back to addresses that begin with `redirect`."""
    made = Provider(redirect=redirect)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
