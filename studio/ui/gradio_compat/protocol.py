"""The addresses and names of Gradio's client protocol that the studio's security hangs on.

What an upload may be, whose page a request comes from and which files are never given out is decided by them. Gradio
documents `session_hash`, and none of the addresses.
"""

import re
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Scope

API = "/gradio_api/"  # before all that Gradio's pages and clients ask for
UPLOAD = f"{API}upload"
INFO = f"{API}info"
STARTUP = f"{API}startup-events"
FILE = f"{API}file"
FILE_MARK = "/file="  # in any address by which Gradio gives out a file
SESSION = "session_hash"  # of a query: Gradio's name for the session of a page
HEARTBEAT = "/heartbeat/"  # with that name behind it
_BEAT = re.compile(rf"{HEARTBEAT}([^/]+)$")

RELIES_ON = {
    "gradio.Request().session_hash": "whose page an event comes from would not be known, and none would be refused",
}
# Address -> what would be open or closed if Gradio had it no longer. Each is a route of Gradio's application.
ADDRESSES = {
    UPLOAD: "uploads would go by the bound of other requests, and what is sent to the new address by none of uploads",
    INFO: "a studio that others reach would refuse its page what tells nothing of anyone",
    STARTUP: "a studio that others reach would refuse its page what tells nothing of anyone",
    f"{FILE}={{path_or_url:path}}": "Gradio would give out files under an address that nothing stands before",
    f"{API}heartbeat/{{session_hash}}": "whose page it is could not be told from a heartbeat",
}


def page_of(scope: Scope) -> str:
    """Gradio's name for the session of a page, where the address of a request tells it."""
    asked: list[Any] = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(SESSION, [])
    beat = _BEAT.search(str(scope["path"]))
    return str(asked[0]) if asked else beat[1] if beat else ""


def gives_out_a_file(path: str) -> bool:
    """Whether Gradio would answer this address with a file, without asking whose it is."""
    return FILE_MARK in path or path.startswith(FILE)
