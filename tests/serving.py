"""A studio served by the tests' own process, whose services a test may hold up or listen to."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from studio.services.core.studio import Studio
from studio.ui.web.server import listening


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(studio: Studio, app: FastAPI) -> Iterator[None]:
    """The application on the port of the studio's settings, in a thread, for as long as the block lasts."""
    server = uvicorn.Server(listening(studio, app))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(30)
