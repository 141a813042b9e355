"""What the studio uses of libraries without their promise, and how a test looks for it.

Each room names it in RELIES_ON; `broken` says in a sentence what is wrong with one name of it.
"""

import asyncio
import contextlib
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import gradio as gr
import uvicorn
import yaml
from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import Mount
from uvicorn.server import ServerState

from studio.dataset.tokens import sandbox
from studio.hub import compat as hub_compat
from studio.recipe import yaml_loader
from studio.services.curves import tensorboard
from studio.ui.gradio_compat import gate, page, protocol, sessions, uploads
from studio.ui.web import uvicorn_compat

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
ROOMS = (gate, page, protocol, sessions, uploads, uvicorn_compat, hub_compat, yaml_loader, sandbox, tensorboard)
PACKAGES = {"yaml": "PyYAML"}  # where a library's package is called otherwise


def place(room: ModuleType) -> str:
    return str(Path(room.__file__ or "").relative_to(ROOT))


def said(library: str, what: str, why: str, where: str) -> str:
    """The sentence that tells what a new version of a library broke."""
    return f"{library} {importlib.metadata.version(PACKAGES.get(library, library))}: {what}: {why} ({where})"


def broken(name: str, why: str, where: str) -> str:
    """What is wrong with a name that a room relies on, as a sentence; empty if it is as it was."""
    match = re.fullmatch(r"(.+?)(?:\(([\w*].*)\))?", name)
    assert match is not None
    dotted, told = match[1], match[2]
    library, short = dotted.split(".")[0], dotted.partition(".")[2].replace("()", "")
    try:
        found = found_at(dotted)
    except (AttributeError, ImportError):
        return said(library, f"{short} is gone", why, where)
    if not told:
        return ""
    expected = told.split(", ")
    # What may be given by place alone bears two underscores, and within a class its name before them.
    there = [
        f"*{name}" if one.kind is one.VAR_POSITIONAL else re.sub(r"^(_[A-Za-z]\w*?)?__", "", name)
        for name, one in inspect.signature(found).parameters.items()
    ]
    if there[: len(expected)] != expected:
        taken, wanted = ", ".join(there), ", ".join(expected)
        return said(library, f"{short} takes ({taken}) and no longer ({wanted}) first", why, where)
    return ""


def found_at(dotted: str) -> Any:
    """What a dotted name stands for; behind `Class()`, an attribute of one that was made."""
    head, made, rest = dotted.partition("()")
    parts = head.split(".")
    at = len(parts)
    while True:
        with contextlib.suppress(ModuleNotFoundError):
            found: Any = importlib.import_module(".".join(parts[:at]))
            break
        at -= 1
        if not at:
            raise ImportError(dotted)
    for part in parts[at:]:
        found = getattr(found, part)
    if made:
        found = samples()[head]
        for part in filter(None, rest.split(".")):
            found = getattr(found, part)
    return found


@cache
def samples() -> Mapping[str, Any]:
    """One of each class of which an attribute is named."""
    with gr.Blocks() as blocks:
        box = gr.Textbox()
        box.submit(lambda text: text, box, box)
    outer = gr.mount_gradio_app(FastAPI(), blocks, path="/")
    mount = next(route for route in outer.routes if isinstance(route, Mount))
    asked = Request({"type": "http", "headers": []})
    return {
        "gradio.Blocks": blocks,
        "gradio.Request": gr.Request(request=asked, session_hash="page"),
        "gradio.blocks.BlockFunction": next(iter(blocks.fns.values())),
        "gradio.blocks.BlocksConfig": blocks.default_config,
        "gradio.queueing.Queue": blocks._queue,
        "gradio.components.Component": box,
        "gradio.state_holder.SessionState": found_at("gradio.state_holder.SessionState")(blocks),
        "gradio.state_holder.StateHolder": found_at("gradio.state_holder.StateHolder")(),
        "gradio.routes.App": mount.app,
        "starlette.routing.Mount": mount,
        "uvicorn.Server": uvicorn.Server(uvicorn.Config(FastAPI())),
        "uvicorn.protocols.http.auto.AutoHTTPProtocol": in_a_thread(connection()),
        "yaml.MarkedYAMLError": yaml.MarkedYAMLError(),
    }


def in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run where no other loop is: Playwright keeps one in the tests' own thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Wire(asyncio.Transport):
    """A connection's other end, which takes everything and says nothing."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None: ...

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def connection() -> Any:
    """uvicorn's connection, with one request under way."""
    config = uvicorn.Config(FastAPI())
    config.load()
    made = found_at("uvicorn.protocols.http.auto.AutoHTTPProtocol")(config, ServerState(), {})
    made.connection_made(Wire())
    made.data_received(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    return made
