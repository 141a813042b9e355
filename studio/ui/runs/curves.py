"""Routes for the curves: JSON of a window or of new points, and all points as files.

Plain routes instead of Gradio events: a zoom or a request for new points is one small, compressed GET that the page can
abort when the next is due; it waits in no queue and keeps no session state on the server.
"""

import gzip
import json
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from studio.errors import NotFound, StudioError
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.curves import curves, tensorboard
from studio.services.curves.curves import Window, WindowRequest
from studio.services.curves.downsample import Array
from studio.services.curves.series import Line
from studio.services.runs import runs

_MOST_RUNS = 8
_FEW = 16  # with fewer values, orjson and rounding cost more than they save
_EXACT = 2**53  # above this, floats cannot represent every integer
_FARTHEST = 290  # decimal places
_SMALL = 1400  # bytes: fits one packet, not worth compressing
_NO_STORE = {"Cache-Control": "no-store"}


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/curves?run=…&run=…`, `/curves/<run>`, `/points/<run>.csv` and `.zip`."""

    @app.get("/curves")
    def windows(
        request: Request, run: Annotated[list[str], Query(max_length=_MOST_RUNS)], x: str = "step",
        low: float | None = None, high: float | None = None, width: int = 1000, weight: float = 0.0, together: int = 0,
        log: bool = False,
    ) -> Response:  # fmt: skip
        """The windows of several runs in one answer; an error in place of a run that cannot be shown.

        together: the number of runs drawn on the page, of which `run` may be a part.
        """
        try:
            look = WindowRequest.parse(x, low, high, width, weight, max(together, len(run)), log)
        except StudioError as error:
            return JSONResponse({"error": access.for_reader(studio, error)}, status_code=400)
        return sent(f'{{"runs":[{",".join(one(studio, name, look) for name in run)}]}}', request)

    @app.get("/curves/{run_id}")
    def window(
        request: Request, run_id: str, x: str = "step", low: float | None = None, high: float | None = None,
        width: int = 1000, weight: float = 0.0, after: int | None = None,
    ) -> Response:  # fmt: skip
        try:
            look = WindowRequest.parse(x, low, high, width, weight)
            view = curves.window(studio, run_id, look) if after is None else curves.news(studio, run_id, look.x, after)
        except StudioError as error:
            return JSONResponse(
                {"error": access.for_reader(studio, error)}, status_code=404 if isinstance(error, NotFound) else 400
            )
        return sent(encode(view), request)

    @app.get("/points/{run_id}.csv")
    def points(run_id: str) -> Response:
        try:
            name, lines = runs.get(studio, run_id).name, curves.csv(studio, run_id)
        except StudioError as error:
            return JSONResponse({"error": access.for_reader(studio, error)}, status_code=404)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(f'{name}-points.csv')}", **_NO_STORE}
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)

    @app.get("/points/{run_id}.zip")
    def event_file(run_id: str) -> Response:
        try:
            name, parts = tensorboard.archive_of(studio, run_id)
        except StudioError as error:
            return JSONResponse({"error": access.for_reader(studio, error)}, status_code=404)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}", **_NO_STORE}
        return StreamingResponse(parts, media_type="application/zip", headers=headers)


def one(studio: Studio, run_id: str, look: WindowRequest) -> str:
    """A run's window as JSON, or the error that prevents it."""
    try:
        return encode(curves.window(studio, run_id, look), 7 if look.runs == 1 else 5)
    except StudioError as error:
        return json.dumps({"error": access.for_reader(studio, error)}, ensure_ascii=False)


def sent(text: str, request: Request) -> Response:
    """An uncached JSON response, compressed where that pays off."""
    body, headers = text.encode(), dict(_NO_STORE)
    if len(body) > _SMALL and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 4)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, media_type="application/json", headers=headers)


def encode(window: Window, digits: int = 7) -> str:
    """A window as JSON. Values have seven significant digits, or five with several runs: a screen shows no more."""
    rest: dict[str, Any] = {
        "run": window.run,
        "cursor": window.cursor,
        "live": window.live,
        "again": window.again,
        "points": window.points,
        "lost": window.lost,
        "extent": window.extent,
        "marks": [[mark.x, mark.step, mark.kind, mark.text, mark.count] for mark in window.marks],
    }
    lines = ",".join(f'"{name}":{_line(line, digits)}' for name, line in window.lines.items())
    return f'{json.dumps(rest, ensure_ascii=False, separators=(",", ":"))[:-1]},"lines":{{{lines}}}}}'


def _line(line: Line, digits: int) -> str:
    columns = (("x", line.x, 12), ("y", line.y, digits), ("sx", line.smooth_x, 12), ("sy", line.smooth_y, digits))
    numbers = ",".join(f'"{name}":{numbers_of(values, figures)}' for name, values, figures in columns)
    return f'{{{numbers},"state":{line.state!r},"count":{line.count}}}'


def numbers_of(values: Array, digits: int) -> str:
    """Finite numbers as a JSON list, rounded to significant digits like "%.7g"; whole numbers as integers."""
    if len(values) < _FEW:
        form = f"%.{digits}g"
        return f"[{','.join([form % value for value in values.tolist()])}]"
    values = rounded(values, digits)
    if (np.abs(values) < _EXACT).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def rounded(values: Array, digits: int) -> Array:
    """Finite numbers rounded to `digits` significant digits, as the nearest floats."""
    with np.errstate(divide="ignore"):  # log10 of 0; the value stays 0
        places = digits - 1 - np.floor(np.log10(np.abs(values)))
    places = np.clip(np.where(np.isfinite(places), places, 0.0), -_FARTHEST, _FARTHEST)
    # Powers of ten are exact from 1 to 1e22, and never below 1.
    up, down = 10.0 ** np.maximum(places, 0.0), 10.0 ** np.maximum(-places, 0.0)
    result: Array = np.rint(values * up / down) * down / up
    return result
