"""The addresses and names of Gradio's client protocol on which the studio's security depends.

They determine what counts as an upload, whose page a request comes from and which files are never served. Gradio
documents `session_hash`, but none of the addresses.
"""

import re
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Scope

API = "/gradio_api/"  # prefix of all requests of Gradio's pages and clients
UPLOAD = f"{API}upload"
INFO = f"{API}info"
STARTUP = f"{API}startup-events"
FILE = f"{API}file"
FILE_MARK = "/file="  # in any address from which Gradio serves a file
SESSION = "session_hash"  # query parameter: Gradio's session name of a page
HEARTBEAT = "/heartbeat/"  # followed by that name
_BEAT = re.compile(rf"{HEARTBEAT}([^/]+)$")

RELIES_ON = {
    "gradio.Request().session_hash": "whose page an event comes from would not be known, and none would be refused",
}
# Address -> what would go wrong if Gradio no longer had it. Each is a route of Gradio's application.
ADDRESSES = {
    UPLOAD: "uploads would go by the bound of other requests, and what is sent to the new address by none of uploads",
    INFO: "a studio that others reach would refuse its page what tells nothing of anyone",
    STARTUP: "a studio that others reach would refuse its page what tells nothing of anyone",
    f"{FILE}={{path_or_url:path}}": "Gradio would give out files under an address that nothing stands before",
    f"{API}heartbeat/{{session_hash}}": "a heartbeat would not say whose page it is",
}


def page_of(scope: Scope) -> str:
    """Gradio's session name of the page that sent a request, if its address contains it."""
    asked: list[Any] = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(SESSION, [])
    beat = _BEAT.search(str(scope["path"]))
    return str(asked[0]) if asked else beat[1] if beat else ""


def gives_out_a_file(path: str) -> bool:
    """Whether Gradio would serve a file at this address, without checking its owner."""
    return FILE_MARK in path or path.startswith(FILE)
