"""The pulse of an open page: what changed since its last question, in one small answer, or 204 when nothing did.

A plain route and no Gradio timer: each answer of Gradio's has the browser copy every part that the event names, a
tenth of a second of work each time. static/pulse.js puts the answers in place. Gradio is woken only when more than
text changed (a run that ended, an export that moved on): `token` says so for the tab in sight.
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

_SLOW = 10.0  # seconds for which what is worked out from all points is told again
_MOST_KEPT = 64
_MOST = 8  # runs drawn together
_AWAKE = """
import(`${location.origin}/static/pulse.js`).then(({pulse}) => pulse.waking('%s', () => trigger('submit')));
"""


def waker(tab: str) -> gr.HTML:
    """A component without looks, whose `submit` comes when what the server tells of a tab has changed."""
    return gr.HTML(js_on_load=_AWAKE % tab, elem_id=f"{tab}-waker", apply_default_css=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page has in sight, and the marks of the parts that it shows."""

    tab: str
    run: str | None
    beside: list[str]
    order: dict[str, Any]
    have: dict[str, str]
    shown: str


@dataclass(slots=True)
class _Told:
    """An answer in the making. fresh: no part of it is older than what the question's stamp stands for."""

    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    windows: list[str] = field(default_factory=list)
    token: str = ""
    line: str = ""
    live: bool = False
    fresh: bool = True


class Pulse:
    """Answers questions of one studio's pages."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._slow: dict[tuple[str, ...], tuple[float, int, str]] = {}

    def answer(self, asked: Asked, cursors: Mapping[str, int], x: str) -> _Told:
        with self.studio.database.at_once():
            return self._answer(asked, cursors, x)

    def _answer(self, asked: Asked, cursors: Mapping[str, int], x: str) -> _Told:
        told = _Told()
        current = run_list.current(self.studio, sidebar.NEWS_SECONDS)
        at_work = [run for run in current if not run.final and run.state != "queued"]
        told.live = bool(at_work)
        standing = [(run.id, run.state) for run in current], run_list.newest_about(self.studio)
        told.line = markup.name_of(repr(standing))
        for name, html in sidebar.parts(self.studio, current).items():
            self._tell(told, asked, name, functools.partial(str, html))
        if asked.tab == "runs" and asked.run is not None:
            drawn = self._tell_of_run(told, asked)
            told.rows = [(run.id, runs_view.row(run)) for run in at_work]
            told.windows = self._news(cursors, x, drawn)
        elif asked.tab == "compare":
            told.token = markup.name_of(compare_view.memory(chat.loaded(self.studio)))
        elif asked.tab == "export":
            told.token, busy = exports_view.overview(self.studio)
            told.live = told.live or busy
        return told

    def _tell_of_run(self, told: _Told, asked: Asked) -> list[RunInfo]:
        """Tells of the open run; returns those that are drawn."""
        info = open_run.find(self.studio, asked.run or "")
        together = open_run.compared_runs(self.studio, info, asked.beside) if info else []
        told.token = runs_view.layout_key(together)
        if info is None or info.id != asked.run:
            return together  # another run is to be opened
        told.live = told.live or any(not run.final for run in together)
        standing = repr(([(one.id, one.state, one.step, one.best_eval) for one in together], asked.order))
        for name, make in open_run.parts(self.studio, info, together, asked.order).items():
            if name in open_run.SLOW:
                states = repr([(one.id, one.state) for one in together])  # an end is told at once
                make = self._slowly(told, (name, states, repr(asked.order)), standing, make)
            self._tell(told, asked, name, make)
        return together

    def _slowly(self, told: _Told, key: tuple[str, ...], standing: str, make: Callable[[], str]) -> Callable[[], str]:
        def html() -> str:
            now, stands = time.monotonic(), hash(standing)
            kept = self._slow.get(key)
            if kept is not None and kept[1] == stands:
                return kept[2]
            if kept is not None and now - kept[0] < _SLOW:
                told.fresh = False
                return kept[2]
            made = make()
            while len(self._slow) >= _MOST_KEPT:
                self._slow.pop(next(iter(self._slow)), None)
            self._slow[key] = now, stands, made
            return made

        return html

    def _tell(self, told: _Told, asked: Asked, name: str, make: Callable[[], str]) -> None:
        if name not in asked.have:
            return
        html = make()
        known = markup.name_of(html) if html else ""
        if asked.have[name] != known:
            told.parts[name] = known, html

    def _news(self, cursors: Mapping[str, int], x: str, drawn: Sequence[RunInfo]) -> list[str]:
        found = []
        at_hand = {one.id: one for one in drawn}
        for run_id, cursor in cursors.items():
            info = at_hand.get(run_id) or runs.get(self.studio, run_id)
            new = curves.news_of(self.studio, info, WindowRequest.parse(x, None, None, 1000, 0.0).x, cursor)
            if new.cursor > cursor or not new.live:
                found.append(encode(new))
        return found


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
        """since: the stamp of the last answer, when the question is the same but for it."""
        marks = dict(one.rpartition(":")[::2] for one in have)
        asked = Asked(tab, run, beside, _order(order), marks, shown)
        cursors = _cursors(curve)
        for watched in cursors:
            change_stamp.take_in(studio, watched)
        # Before anything is read: what changes meanwhile is told next time.
        told_by_files = tab in ("compare", "export")
        stamp = change_stamp.stamp(studio, (run or "") if "run-log" in marks else "")
        stamp = stamp and f"{stamp}.{markup.name_of(sidebar.machine_now(studio))}"
        if stamp and since == stamp and not told_by_files:
            return Response(status_code=204)
        try:
            found = pulse.answer(asked, cursors, x)
        except StudioError as error:
            return Response(access.for_reader(studio, error), status_code=404)
        nothing = not (found.parts or found.windows) and found.token == shown
        if nothing and stamp and since == stamp:
            return Response(status_code=204)
        rest = {
            "since": stamp if found.fresh else "",
            "live": found.live,
            "token": found.token,
            "line": found.line,
            "parts": found.parts,
            "rows": found.rows,
        }
        text = json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
        return sent(f'{text[:-1]},"curves":[{",".join(found.windows)}]}}', request)


def _order(text: str) -> dict[str, Any]:
    """The order of the table of differences as the page was told it."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _cursors(curve: list[str]) -> dict[str, int]:
    found = {}
    for one in curve:
        run, _, cursor = one.rpartition("@")
        if run and cursor.isdecimal():
            found[run] = int(cursor[:18])
    return found
