"""Decisions about a checked file that one click takes: a column is ignored, a format confirmed, turns are mended.

Each reads the file again with that decision added to those taken before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.services.core.studio import Studio
from studio.services.data import checks
from studio.services.data.checks import Options
from studio.ui.parts.busy import Busy
from studio.ui.parts.handlers import PRIVATE, Step, Updates, with_notice_while


def wire(
    studio: Studio,
    clicked: gr.HTML,
    subject: Sequence[gr.State],
    notice: gr.HTML,
    busy: Busy,
    show: Callable[[str], Updates],
    whole: Sequence[Any],
) -> None:
    """Wire the buttons of one component.

    subject: the key of what is shown, and the path of a file that cannot be read before its turns are mended; notice
    and busy: where errors and progress are shown; show: the tab's updates for a key; whole: the components they update,
    with the notice.
    """

    def decide(request: gr.Request, event: gr.EventData, key: str, waiting: str) -> Iterator[Updates]:
        previous = None if waiting else checks.get(studio, key)
        path, options = (previous.path, previous.options) if previous else (waiting, Options())
        yield {notice: ""}
        job = checks.checking(studio, path, _with(options, event))
        checked = yield from busy.follow(request, f"Reading {Path(path).name}", job)
        if previous:
            checks.discard(studio, previous.token)
        yield show(checked.token)

    slow: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 2}
    clicked.click(
        with_notice_while(studio, notice, decide, busy.idle), list(subject), list({notice, busy.said, *whole}), **slow
    )


def _with(options: Options, event: gr.EventData) -> Options:
    """The options with the decision of a click added, or taken back."""
    if hasattr(event, "ignore"):
        return replace(options, ignore=(*options.ignore, str(event.ignore)))
    if hasattr(event, "restore"):
        return replace(options, ignore=[name for name in options.ignore if name != event.restore])
    if hasattr(event, "format"):
        return replace(options, format=str(event.format), mapping={})
    if hasattr(event, "mend"):
        return replace(options, merge="merge" in event.mend, drop="drop" in event.mend)
    if hasattr(event, "merge"):
        return replace(options, merge=not options.merge)
    return replace(options, drop=not options.drop)
