"""Secrets in what is logged: whatever looks like one is struck out before it is written anywhere.

No secret is meant to come into a message at all; this is for the message of a library, or an address with a password
in it, that nobody thought of.
"""

import logging
import re
import sys
from typing import Any

STRUCK = "[struck out]"
_PATTERNS = (
    re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9.-]{16,}"),  # of the hub
    re.compile(r"\b(?:sk|ghp|gho|github_pat|xox[abprs]|glpat)[-_][A-Za-z0-9_-]{10,}"),  # of others
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # a signed token
    re.compile(r"(?i)(?<=bearer )[^\s\"',;]+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(r"(?i)(?<=authorization: )\S+(?: \S+)?|(?<=cookie: )[^\r\n]+"),
    re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"),  # user and password of an address
    re.compile(r"(?i)(?<=[?&])(?:token|key|api_key|apikey|secret|signature|sig|password|code|access_token)=[^&\s\"']+"),
    re.compile(r"(?i)(?<=hooks\.slack\.com/services/)\S+|(?<=discord\.com/api/webhooks/)\S+"),
)


def strike(text: str) -> str:
    """The text without what looks like a secret in it."""
    for pattern in _PATTERNS:
        text = pattern.sub(STRUCK, text)
    return text


class _Struck:
    """A stream on which secrets are struck out of each piece that is written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(strike(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_logs() -> None:
    """Strike secrets out of all that this process logs or says on stderr from now on, tracebacks too.

    Handlers are made in many places, by libraries as well, so it is done where each of them formats.
    """
    if not isinstance(sys.stderr, _Struck):
        sys.stderr = _Struck(sys.stderr)
    plain = logging.Handler.format
    if getattr(plain, "strikes", False):
        return

    def struck(self: logging.Handler, record: logging.LogRecord) -> str:
        return strike(plain(self, record))

    struck.strikes = True  # type: ignore[attr-defined]
    logging.Handler.format = struck  # type: ignore[method-assign]
