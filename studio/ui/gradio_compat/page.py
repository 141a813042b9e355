"""The page as a `gr.Blocks` subclass, with the studio's changes to Gradio's internals.

Every event passes through one method, so that its visitor is known there; no page keeps a connection open; and events
without visible progress do no work in the browser.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import gradio as gr

_HOLDING = 2_000  # pages whose state Gradio keeps

# Called with the ASGI scope of an event's request and Gradio's session name of its page; returns the context in which
# the handler, or the next step of a generator handler, runs.
Asking = Callable[[Mapping[str, Any], str], AbstractContextManager[None]]

_LOST = "who asks would be lost between request and event"
_TOLD = "the progress of events that show none would be sent to every component"
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
    "gradio.components.Component()._id": "what a browser has seen would be unknown, and everything would be sent again",
}


class Page(gr.Blocks):
    """A page whose events run within `asking`, if it is set."""

    asking: Asking | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.state_session_capacity = _HOLDING

    def get_config_file(self) -> Any:
        """The configuration sent to the browser, without Gradio's heartbeat.

        With the heartbeat, each page would keep a connection open, and a browser allows six per server, so a sixth page
        would find none. An event in progress still ends when its page is closed, and a page's state is dropped once
        _HOLDING other pages have been used since.
        """
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
        """Override of Gradio's method, the only one that calls a handler or takes a generator's next step."""
        call: Callable[..., Any] = super().call_function
        if self.asking is None:
            return await call(block_fn, processed_input, iterator, requests, *rest, **named)
        request = requests[0] if isinstance(requests, list) else requests
        page = str(request.session_hash or "") if request is not None else ""
        with self.asking(_scope_of(request), page):
            return await call(block_fn, processed_input, iterator, requests, *rest, **named)


def _scope_of(request: gr.Request | None) -> Mapping[str, Any]:
    """The ASGI scope of an event's request; empty if it is lost."""
    return getattr(getattr(request, "request", None), "scope", None) or {}


def key_of(part: Any) -> str:
    """A key for a component, stable while the studio runs."""
    return str(part._id)


def calm(page: gr.Blocks, nowhere: gr.HTML) -> None:
    """Avoid work in the browser for events whose progress is hidden.

    On every event, Gradio updates the status of each component that any event has named, visible or not, and copies its
    value for that: a tenth of a second of work in the browser. A component that leaves the page meanwhile counts
    animation frames forever. So the status of events with hidden progress is sent to one empty component. Each listener
    could set `show_progress_on` itself, but one forgotten listener would cost all of that without being noticed.
    """
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [nowhere]
    # Poll the queue twenty times a second, as Gradio does on Windows, instead of a thousand times, which takes 5% of a
    # core; and poll gr.Progress, which is not used here, once a second instead of a hundred times.
    page._queue.sleep_when_free = 0.05
    page._queue.progress_update_sleep_when_free = 1.0
