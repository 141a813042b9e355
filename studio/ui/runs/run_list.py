"""Routes for the list of runs: a page of rows, changes to one run, the trash.

Plain routes instead of Gradio events, as for the curves: a poll is one small GET that a later one may overtake, and a
change is answered directly. The guard of ui/web/server.py protects them.
"""

import gzip
import json
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from studio.errors import StudioError
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.runs import labels, run_list, runs, trash
from studio.services.runs.run_list import Listing
from studio.ui.parts import units
from studio.ui.runs import view as runs_view

_SMALL = 1400  # bytes: fits one packet, not worth compressing
_NO_STORE = {"Cache-Control": "no-store"}


class Change(BaseModel):
    """A change to a run's labels; fields left out stay as they are."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = None
    notes: str | None = None
    tags: str | None = None
    starred: bool | None = None
    trashed: bool | None = None


class TrashRequest(BaseModel):
    """The runs in the trash that the user saw and wants deleted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    runs: list[str]


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/runs.json`, `/runs/<id>.json`, `/runs/<id>`, `/trash.json` and `/trash`."""

    @app.get("/runs.json")
    def listing(
        request: Request,
        search: str = "",
        state: str = "",
        model: str = "",
        dataset: str = "",
        tag: str = "",
        starred: bool = False,
        trashed: bool = False,
        sort: str = "created",
        down: bool | None = None,
        limit: Annotated[int, Query(ge=1, le=run_list.MOST)] = run_list.PAGE,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> Response:
        query = run_list.Query(search, state, model, dataset, tag, starred, trashed, sort, down, limit, offset)
        try:
            return _sent(_page(run_list.find(studio, query)), request)
        except StudioError as error:
            return _sent({"error": access.for_reader(studio, error)}, request)

    @app.get("/runs/{run_id}.json")
    def run_labels(request: Request, run_id: str) -> Response:
        try:
            info = runs.get(studio, run_id)
        except StudioError as error:
            return _sent({"error": access.for_reader(studio, error)}, request)
        return _sent({"id": info.id, "name": info.name, "notes": info.notes, "tags": info.tags}, request)

    @app.post("/runs/{run_id}")
    def change(request: Request, run_id: str, wanted: Change) -> Response:
        labels_change = wanted.model_dump(exclude={"trashed"})
        try:
            info = labels.change(studio, run_id, **labels_change)
            if wanted.trashed is not None:
                info = (trash.throw if wanted.trashed else trash.restore)(studio, info.id)
        except StudioError as error:
            return _sent({"error": access.for_reader(studio, error)}, request)
        return _sent({"id": info.id, "name": info.name}, request)

    @app.get("/trash.json")
    def in_trash(request: Request) -> Response:
        infos = trash.contents(studio)
        named = [{"id": info.id, "name": info.name, "size": units.size(info.bytes)} for info in infos]
        return _sent({"runs": named, "size": units.size(sum(info.bytes or 0 for info in infos))}, request)

    @app.post("/trash")
    def empty(request: Request, trash_request: TrashRequest) -> Response:
        try:
            done = trash.empty(studio, trash_request.runs)
        except StudioError as error:
            return _sent({"error": access.for_reader(studio, error)}, request)
        kept_reasons = [f"{name} stays: {reason}" for name, reason in done.kept]
        return _sent({"deleted": len(done.deleted), "freed": units.size(done.freed), "kept": kept_reasons}, request)


def _page(page: Listing) -> dict[str, Any]:
    return {
        "rows": [[info.id, runs_view.row(info)] for info in page.runs],
        "total": page.total,
        "kept": {"count": page.kept.count, "size": units.size(page.kept.bytes)},
        "trash": {"count": page.trash.count, "size": units.size(page.trash.bytes)},
        "facets": page.facets,
    }


def _sent(value: dict[str, Any], request: Request) -> Response:
    """A JSON response. Errors are also sent with status 200, so that the browser's console shows only real faults."""
    body, headers = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), dict(_NO_STORE)
    if len(body) > _SMALL and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 4)
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, media_type="application/json", headers=headers)
