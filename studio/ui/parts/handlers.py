"""What all tabs share: a view of HTML, errors that become messages, parts that are left alone while unchanged.

Handlers return a dictionary of component to new value. `told` wraps one so that a StudioError is shown by the
component nearest its cause, in words for who asks; anything else is a bug and travels on to Gradio's error message.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.ui.gradio_compat.page import key_of
from studio.ui.parts import markup

Updates = dict[Any, Any]
Step = dict[str, Any]  # a handler with its inputs and outputs, ready for an event: `button.click(**step)`
PRIVATE = "private"
# Only a queued event tells the page that a gr.State changed, and only among queued ones does the last one win.
QUEUED: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 8}


class Cancelled(Exception):
    """A task was ended by its Cancel button."""


def view(name: str, value: str = "", picks: bool = False) -> gr.HTML:
    """A piece of the page that we draw ourselves; with `picks`, its data-pick buttons arrive as click events."""
    return gr.HTML(value, elem_id=name or None, js_on_load=markup.PICK if picks else None, apply_default_css=False)


def with_notice(
    studio: Studio, notice: gr.HTML, handler: Callable[..., Updates], clear: bool = True
) -> Callable[..., Updates]:
    """`handler`, with what it cannot do said in `notice`; a success clears the notice if `clear`."""

    @functools.wraps(handler)
    def answered(*values: Any) -> Updates:
        try:
            return {notice: "" if clear else gr.skip(), **handler(*values)}
        except StudioError as error:
            return {notice: markup.problem(access.for_reader(studio, error))}

    return answered


def with_notice_while(
    studio: Studio, notice: gr.HTML, handler: Callable[..., Iterator[Updates]], after: Updates
) -> Callable[..., Iterator[Updates]]:
    """`told` for a handler that answers bit by bit; `after` is sent when it ends, well or not."""

    @functools.wraps(handler)
    def answered(*values: Any) -> Iterator[Updates]:
        try:
            yield from handler(*values)
            if after:
                yield after
        except Cancelled:
            yield {**after, notice: markup.note("Cancelled. Nothing was changed.")}
        except StudioError as error:
            yield {**after, notice: markup.problem(access.for_reader(studio, error))}

    return answered


def changed(seen: dict[str, Any], fresh: Updates) -> Updates:
    """Of `fresh`, what differs from the values `seen` last time; `seen` is brought up to date."""
    different = {part: value for part, value in fresh.items() if seen.get(key_of(part)) != value}
    seen.update({key_of(part): value for part, value in different.items()})
    return different
