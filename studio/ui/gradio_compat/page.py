"""The page as Gradio holds it: `gr.Blocks`, with what the studio changes inside of it.

Every event goes through one place, so that who asks is known there; no page keeps a connection; and nothing works where
nothing is to be seen.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import gradio as gr

_HOLDING = 2_000  # pages whose state Gradio keeps

# Called with the ASGI scope of the request that an event came with and with Gradio's name for its page: the context in
# which the handler is called, or its next step taken.
Asking = Callable[[Mapping[str, Any], str], AbstractContextManager[None]]

_LOST = "who asks would be lost between request and event"
_TOLD = "the progress of events that show none would be told to every component"
_BUSY = "Gradio's queue would look for work a thousand times a second, for ever"
RELIES_ON = {
    "gradio.Blocks.call_function(self, block_fn, processed_input, iterator, requests)": _LOST,
    "gradio.Request().request": _LOST,
    "gradio.Blocks.get_config_file(self)": "each page would keep a connection for Gradio's heartbeat",
    "gradio.Blocks().state_session_capacity": "what pages hold would be kept for as many as Gradio likes",
    "gradio.Blocks().fns": _TOLD,
    "gradio.blocks.BlockFunction().show_progress": _TOLD,
    "gradio.blocks.BlockFunction().show_progress_on": _TOLD,
    "gradio.Blocks()._queue": _BUSY,
    "gradio.queueing.Queue().sleep_when_free": _BUSY,
    "gradio.queueing.Queue().progress_update_sleep_when_free": "it would look for progress a hundred times a second",
    "gradio.components.Component()._id": "what a browser has seen could not be told, and all would be sent anew",
}


class Page(gr.Blocks):
    """A page whose events are done within `asking`, if it is given."""

    asking: Asking | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.state_session_capacity = _HOLDING

    def get_config_file(self) -> Any:
        """What a page is told of itself. Without Gradio's heartbeat: each page would keep a connection for it, and a
        browser has six for one server, so the sixth page would find none. What an event has at work ends all the same
        when its page is gone, and what a page holds goes when _HOLDING others came since it was used."""
        return {**super().get_config_file(), "connect_heartbeat": False}

    async def call_function(
        self,
        block_fn: Any,
        processed_input: list[Any],
        iterator: AsyncIterator[Any] | None = None,
        requests: gr.Request | list[gr.Request] | None = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        """As Gradio's: the one place that calls a handler, or takes the next step of one."""
        call: Callable[..., Any] = super().call_function
        if self.asking is None:
            return await call(block_fn, processed_input, iterator, requests, *rest, **named)
        request = requests[0] if isinstance(requests, list) else requests
        page = str(request.session_hash or "") if request is not None else ""
        with self.asking(_scope_of(request), page):
            return await call(block_fn, processed_input, iterator, requests, *rest, **named)


def _scope_of(request: gr.Request | None) -> Mapping[str, Any]:
    """The ASGI scope of the request that an event came with; empty where that is lost."""
    return getattr(getattr(request, "request", None), "scope", None) or {}


def key_of(part: Any) -> str:
    """A name for a component that stays the same while the studio runs."""
    return str(part._id)


def calm(page: gr.Blocks, nowhere: gr.HTML) -> None:
    """Keep Gradio from working where nothing is to be seen.

    At every event it tells each component that any event ever named how that event is doing, hidden or not, and copies
    its value for that: a tenth of a second of the browser's work. And a component that leaves the page meanwhile counts
    animation frames for ever. So the progress of events that show none is kept by one empty component. Every listener
    takes that as its argument `show_progress_on`, but one that was forgotten would cost all of it and nobody would see.
    """
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [nowhere]
    # Its queue looks for work twenty times a second, as on Windows, and not a thousand, which is 5% of a core for ever;
    # and for progress told through gr.Progress, which nothing here does, not a hundred times.
    page._queue.sleep_when_free = 0.05
    page._queue.progress_update_sleep_when_free = 1.0
