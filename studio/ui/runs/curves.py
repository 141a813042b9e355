"""What the curves ask of the server: JSON of one window or of what is new, all points as files.

A plain route and no Gradio event: a zoom or a look for new points is one small GET, compressed, that the page can
abort when the next one is due; it waits in no queue and holds no state of a session on the server.
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
_FEW = 16  # below it orjson and rounding cost more than they save
_EXACT = 2**53  # above it a float may be no whole number of its own
_FARTHEST = 290  # decimal places
_SMALL = 1400  # bytes that fit a packet: not worth compressing
_NO_STORE = {"Cache-Control": "no-store"}


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/curves?run=…&run=…`, `/curves/<run>`, `/points/<run>.csv` and `.zip`."""

    @app.get("/curves")
    def windows(
        request: Request, run: Annotated[list[str], Query(max_length=_MOST_RUNS)], x: str = "step",
        low: float | None = None, high: float | None = None, width: int = 1000, weight: float = 0.0, together: int = 0,
        log: bool = False,
    ) -> Response:  # fmt: skip
        """Runs of those `together` that are drawn, in one answer; in place of one that cannot be shown, why not."""
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
            found = curves.window(studio, run_id, look) if after is None else curves.news(studio, run_id, look.x, after)
        except StudioError as error:
            return JSONResponse(
                {"error": access.for_reader(studio, error)}, status_code=404 if isinstance(error, NotFound) else 400
            )
        return sent(encode(found), request)

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
    """A run's window as JSON, or why it cannot be shown."""
    try:
        return encode(curves.window(studio, run_id, look), 7 if look.runs == 1 else 5)
    except StudioError as error:
        return json.dumps({"error": access.for_reader(studio, error)}, ensure_ascii=False)


def sent(text: str, request: Request) -> Response:
    """JSON that is not to be kept, compressed where that is worth it."""
    body, headers = text.encode(), dict(_NO_STORE)
    if len(body) > _SMALL and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 4)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, media_type="application/json", headers=headers)


def encode(window: Window, digits: int = 7) -> str:
    """A window as JSON. Values have seven digits, or five where many runs are told: a screen shows no more of them."""
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
    """Finite numbers as a list in JSON, rounded to so many digits as "%.7g" rounds to seven; whole ones as such."""
    if len(values) < _FEW:
        form = f"%.{digits}g"
        return f"[{','.join([form % value for value in values.tolist()])}]"
    values = rounded(values, digits)
    if (np.abs(values) < _EXACT).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def rounded(values: Array, digits: int) -> Array:
    """The floats nearest to finite numbers of so many significant digits."""
    with np.errstate(divide="ignore"):  # of 0, which stays what it is
        places = digits - 1 - np.floor(np.log10(np.abs(values)))
    places = np.clip(np.where(np.isfinite(places), places, 0.0), -_FARTHEST, _FARTHEST)
    # Powers of ten from 1 on are exact up to 22, those below it never.
    up, down = 10.0 ** np.maximum(places, 0.0), 10.0 ** np.maximum(-places, 0.0)
    found: Array = np.rint(values * up / down) * down / up
    return found
