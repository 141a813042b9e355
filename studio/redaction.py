"""Redact secrets in logs: text that looks like one is struck out before it is written anywhere.

Our own messages contain no secrets; this is a safety net for messages of libraries, or addresses with a password.
"""

import logging
import re
import sys
from typing import Any

STRUCK = "[struck out]"
_PATTERNS = (
    re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9.-]{16,}"),  # Hugging Face
    re.compile(r"\b(?:sk|ghp|gho|github_pat|xox[abprs]|glpat)[-_][A-Za-z0-9_-]{10,}"),  # other services
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # JSON web token
    re.compile(r"(?i)(?<=bearer )[^\s\"',;]+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(r"(?i)(?<=authorization: )\S+(?: \S+)?|(?<=cookie: )[^\r\n]+"),
    re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"),  # user and password in a URL
    re.compile(r"(?i)(?<=[?&])(?:token|key|api_key|apikey|secret|signature|sig|password|code|access_token)=[^&\s\"']+"),
    re.compile(r"(?i)(?<=hooks\.slack\.com/services/)\S+|(?<=discord\.com/api/webhooks/)\S+"),
)


def strike(text: str) -> str:
    """Replace everything in a text that looks like a secret."""
    for pattern in _PATTERNS:
        text = pattern.sub(STRUCK, text)
    return text


class _Struck:
    """Stream wrapper that redacts secrets in everything written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(strike(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_logs() -> None:
    """Redact secrets in everything this process logs or writes to stderr from now on, including tracebacks.

    Handlers are created in many places, also by libraries, so this patches the formatting of all of them.
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
