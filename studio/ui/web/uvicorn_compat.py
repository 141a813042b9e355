"""Limits on waiting connections: slow requests, or many from one client, must not keep others out.

uvicorn has no option for either, so this subclasses its connection class, which is internal. RELIES_ON lists what is
used of it and what would break without it; tests/unit/project/test_contracts.py checks the installed uvicorn.
"""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_SLOW = "a connection that never completes a request would be kept forever"
RELIES_ON = {
    "uvicorn.protocols.http.auto.AutoHTTPProtocol": _SLOW,
    "uvicorn.protocols.http.auto.AutoHTTPProtocol.connection_made(self, transport)":
        "connections of one address would not be counted",
    "uvicorn.protocols.http.auto.AutoHTTPProtocol.data_received(self, data)": _SLOW,
    "uvicorn.protocols.http.auto.AutoHTTPProtocol.connection_lost(self, exc)":
        "closed connections would be counted forever, and their address locked out",
    "uvicorn.protocols.http.auto.AutoHTTPProtocol().cycle": _SLOW,
    "uvicorn.protocols.http.auto.AutoHTTPProtocol().cycle.response_complete": _SLOW,
    "uvicorn.protocols.http.auto.AutoHTTPProtocol().loop": _SLOW,
    "uvicorn.protocols.http.auto.AutoHTTPProtocol().transport": _SLOW,
    "uvicorn.Server().started": "a port that is in use would not be reported",
}  # fmt: skip
HEADER_SECONDS = 15.0  # time limit for the head of a request
EACH = 256  # connections per address; a page uses up to six
ALL = 1024  # connections in all

_open: Counter[str] = Counter()


class TimedConnection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which of uvicorn's two it is depends on what is installed
    """uvicorn's connection, closed if the head of a request does not arrive in time."""

    _late: asyncio.TimerHandle | None = None
    _from = ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._from = str((transport.get_extra_info("peername") or ("",))[0])
        _open[self._from] += 1
        if _open[self._from] > EACH:
            transport.abort()
            return
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._start_timer()
        else:
            self._cancel_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        _open[self._from] -= 1
        if _open[self._from] <= 0:
            del _open[self._from]
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _cancel_timer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
