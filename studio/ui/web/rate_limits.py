"""Limits on the size and duration of one request and on requests per client; applied by the guard (guard.py)."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CLIENTS = 10_000  # clients remembered at once
PATIENCE = 30.0  # seconds until a body must have started; larger bodies get more time
SLOWEST = 4096  # minimum bytes per second of a body


class Buckets:
    """A token bucket for each client: `rate` tokens per second, at most `size` saved up.

    A client that was idle for long is forgotten and gets a full bucket, which it would have had by then.
    """

    def __init__(self, rate: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.size, self._clock = rate, size, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Take one of the client's tokens; False if there is none."""
        if self.rate <= 0:
            return True
        now = self._clock()
        left, then = self._left.pop(client, (self.size, now))
        left = min(self.size, left + (now - then) * self.rate)
        enough = left >= 1
        self._left[client] = (left - 1 if enough else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return enough


class Bounded:
    """An application whose requests end when their body is larger than `most` bytes or too slow."""

    def __init__(self, app: ASGIApp, most: int, patience: float = PATIENCE, slowest: int = SLOWEST) -> None:
        self.app, self.most, self.patience, self.slowest = app, most, patience, slowest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        got, ended, answering, over = 0, False, False, False
        began = time.monotonic()

        async def refuse(status: int, reason: str) -> Message:
            nonlocal over
            if not answering and not over:
                over = True
                await PlainTextResponse(reason, status_code=status, headers={"Connection": "close"})(
                    scope, receive, send
                )
            over = True
            return {"type": "http.disconnect"}

        async def taken() -> Message:
            nonlocal got, ended
            if over:
                return {"type": "http.disconnect"}
            if ended:  # the only further message is that the client disconnects
                return await receive()
            until = began + self.patience + got / self.slowest
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                return await refuse(408, "The request came too slowly.")
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                ended = not message.get("more_body", False)
                if got > self.most:
                    return await refuse(413, f"At most {self.most / 2**20:,.0f} MiB may be sent here.")
            return message

        async def given(message: Message) -> None:
            nonlocal answering
            if not over:
                answering = True
                await send(message)

        try:
            await self.app(scope, taken, given)
        except Exception:
            if not over:  # after a refusal, errors of the application are expected
                raise
