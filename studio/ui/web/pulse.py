"""Live updates of an open page: one small answer with what changed since its last request, or 204 if nothing did.

A plain route instead of a Gradio timer: each Gradio answer makes the browser copy every component the event names, a
tenth of a second of work each time. static/pulse.js applies the answers. Gradio is woken only when more than text
changed (a run that ended, an export that progressed), as indicated by `token` for the visible tab.
"""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import gradio as gr
from fastapi import FastAPI, Query, Request, Response

from studio.errors import StudioError
from studio.services.chat import chat
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.curves.curves import WindowRequest
from studio.services.runs import change_stamp, run_list, runs
from studio.services.runs.runs import RunInfo
from studio.ui import sidebar
from studio.ui.compare import view as compare_view
from studio.ui.export import view as exports_view
from studio.ui.parts import markup
from studio.ui.runs import open_run
from studio.ui.runs import view as runs_view
from studio.ui.runs.curves import encode, sent

_SLOW = 10.0  # seconds for which a result computed from all points is reused
_MOST_KEPT = 64
_MOST = 8  # runs drawn together
_AWAKE = """
import(`${location.origin}/static/pulse.js`).then(({pulse}) => pulse.waking('%s', () => trigger('submit')));
"""


def waker(tab: str) -> gr.HTML:
    """An invisible component whose `submit` fires when the server's data for a tab has changed."""
    return gr.HTML(js_on_load=_AWAKE % tab, elem_id=f"{tab}-waker", apply_default_css=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page shows, and the marks of the parts it has."""

    tab: str
    run: str | None
    beside: list[str]
    order: dict[str, Any]
    have: dict[str, str]
    shown: str


@dataclass(slots=True)
class _Told:
    """The answer under construction. fresh: no part of it is older than the request's stamp."""

    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    windows: list[str] = field(default_factory=list)
    token: str = ""
    line: str = ""
    live: bool = False
    fresh: bool = True


class Pulse:
    """Answers the requests of one studio's pages."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._slow: dict[tuple[str, ...], tuple[float, int, str]] = {}

    def answer(self, asked: Asked, cursors: Mapping[str, int], x: str) -> _Told:
        with self.studio.database.at_once():
            return self._answer(asked, cursors, x)

    def _answer(self, asked: Asked, cursors: Mapping[str, int], x: str) -> _Told:
        answer = _Told()
        current = run_list.current(self.studio, sidebar.NEWS_SECONDS)
        at_work = [run for run in current if not run.final and run.state != "queued"]
        answer.live = bool(at_work)
        standing = [(run.id, run.state) for run in current], run_list.newest_about(self.studio)
        answer.line = markup.name_of(repr(standing))
        for name, html in sidebar.parts(self.studio, current).items():
            self._add_part(answer, asked, name, functools.partial(str, html))
        if asked.tab == "runs" and asked.run is not None:
            drawn = self._add_run(answer, asked)
            answer.rows = [(run.id, runs_view.row(run)) for run in at_work]
            answer.windows = self._news(cursors, x, drawn)
        elif asked.tab == "compare":
            answer.token = markup.name_of(compare_view.memory(chat.loaded(self.studio)))
        elif asked.tab == "export":
            answer.token, busy = exports_view.overview(self.studio)
            answer.live = answer.live or busy
        return answer

    def _add_run(self, answer: _Told, asked: Asked) -> list[RunInfo]:
        """Add the parts of the open run to the answer; returns the runs that are drawn."""
        info = open_run.find(self.studio, asked.run or "")
        together = open_run.compared_runs(self.studio, info, asked.beside) if info else []
        answer.token = runs_view.layout_key(together)
        if info is None or info.id != asked.run:
            return together  # another run is being opened
        answer.live = answer.live or any(not run.final for run in together)
        standing = repr(([(item.id, item.state, item.step, item.best_eval) for item in together], asked.order))
        for name, make in open_run.parts(self.studio, info, together, asked.order).items():
            if name in open_run.SLOW:
                states = repr([(item.id, item.state) for item in together])  # an end is reported immediately
                make = self._cached(answer, (name, states, repr(asked.order)), standing, make)
            self._add_part(answer, asked, name, make)
        return together

    def _cached(self, answer: _Told, key: tuple[str, ...], standing: str, make: Callable[[], str]) -> Callable[[], str]:
        def html() -> str:
            now, standing_hash = time.monotonic(), hash(standing)
            cached = self._slow.get(key)
            if cached is not None and cached[1] == standing_hash:
                return cached[2]
            if cached is not None and now - cached[0] < _SLOW:
                answer.fresh = False
                return cached[2]
            fresh_html = make()
            while len(self._slow) >= _MOST_KEPT:
                self._slow.pop(next(iter(self._slow)), None)
            self._slow[key] = now, standing_hash, fresh_html
            return fresh_html

        return html

    def _add_part(self, answer: _Told, asked: Asked, name: str, make: Callable[[], str]) -> None:
        if name not in asked.have:
            return
        html = make()
        mark = markup.name_of(html) if html else ""
        if asked.have[name] != mark:
            answer.parts[name] = mark, html

    def _news(self, cursors: Mapping[str, int], x: str, drawn: Sequence[RunInfo]) -> list[str]:
        windows = []
        drawn_by_id = {item.id: item for item in drawn}
        for run_id, cursor in cursors.items():
            info = drawn_by_id.get(run_id) or runs.get(self.studio, run_id)
            new = curves.news_of(self.studio, info, WindowRequest.parse(x, None, None, 1000, 0.0).x, cursor)
            if new.cursor > cursor or not new.live:
                windows.append(encode(new))
        return windows


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/pulse`."""
    pulse = Pulse(studio)

    @app.get("/pulse")
    def beat(
        request: Request, tab: str = "", run: str | None = None, order: str = "", shown: str = "", x: str = "step",
        beside: Annotated[list[str], Query(max_length=_MOST)] = [],  # noqa: B006 - FastAPI copies it
        have: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006
        curve: Annotated[list[str], Query(max_length=_MOST)] = [],  # noqa: B006
        since: str = "",
    ) -> Response:  # fmt: skip
        """since: the stamp of the last answer, if the request is otherwise the same."""
        marks = dict(item.rpartition(":")[::2] for item in have)
        asked = Asked(tab, run, beside, _order(order), marks, shown)
        cursors = _cursors(curve)
        for watched in cursors:
            change_stamp.take_in(studio, watched)
        # Taken before anything is read, so that a change meanwhile is reported by the next request.
        from_files = tab in ("compare", "export")
        stamp = change_stamp.stamp(studio, (run or "") if "run-log" in marks else "")
        stamp = stamp and f"{stamp}.{markup.name_of(sidebar.machine_now(studio))}"
        if stamp and since == stamp and not from_files:
            return Response(status_code=204)
        try:
            answer = pulse.answer(asked, cursors, x)
        except StudioError as error:
            return Response(access.for_reader(studio, error), status_code=404)
        nothing = not (answer.parts or answer.windows) and answer.token == shown
        if nothing and stamp and since == stamp:
            return Response(status_code=204)
        rest = {
            "since": stamp if answer.fresh else "",
            "live": answer.live,
            "token": answer.token,
            "line": answer.line,
            "parts": answer.parts,
            "rows": answer.rows,
        }
        text = json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
        return sent(f'{text[:-1]},"curves":[{",".join(answer.windows)}]}}', request)


def _order(text: str) -> dict[str, Any]:
    """The order of the table of differences, as the page sends it."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _cursors(curve: list[str]) -> dict[str, int]:
    cursors = {}
    for item in curve:
        run, _, cursor = item.rpartition("@")
        if run and cursor.isdecimal():
            cursors[run] = int(cursor[:18])
    return cursors
