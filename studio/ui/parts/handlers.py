"""Helpers for event handlers: HTML views, errors shown as messages, updates limited to what changed.

Handlers return a dictionary of component to new value. `with_notice` wraps one so that a StudioError is shown in the
component nearest its cause, phrased for the current visitor. Any other exception is a bug and reaches Gradio's error
message.
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
# Only a queued event notifies the page that a gr.State changed, and only among queued events does the last one win.
QUEUED: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 8}


class Cancelled(Exception):
    """A task was cancelled by its Cancel button."""


def view(name: str, value: str = "", picks: bool = False) -> gr.HTML:
    """An HTML component that we draw ourselves; with `picks`, clicks on its data-pick buttons become click events."""
    return gr.HTML(value, elem_id=name or None, js_on_load=markup.PICK if picks else None, apply_default_css=False)


def with_notice(
    studio: Studio, notice: gr.HTML, handler: Callable[..., Updates], clear: bool = True
) -> Callable[..., Updates]:
    """Wrap `handler` so that a StudioError is shown in `notice`; a success clears the notice if `clear`."""

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
    """`with_notice` for a generator handler; `after` is sent when it ends, whether it succeeded or not."""

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
    """The entries of `fresh` that differ from the values last `seen`; updates `seen`."""
    different = {part: value for part, value in fresh.items() if seen.get(key_of(part)) != value}
    seen.update({key_of(part): value for part, value in different.items()})
    return different
