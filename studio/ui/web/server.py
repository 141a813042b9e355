"""The web server: our FastAPI application, with Gradio mounted in it.

Routes: `/healthz` reports that the studio is alive; `/static` serves our files; `/download/<export>` an export (or
`/<file>` of it); `/rejects/<dataset>.csv` (or .jsonl) the rows of a file that were left out; `/curves` and
`/points/<run>.csv` (or .zip) the measured points; `/pulse` live updates of a page; `/runs.json`, `/runs/<run>` and
`/trash` the list of runs; `/machine` the use of this machine; `/comparison/<id>.html` and `/evaluation/<id>.html` (or
.json) comparisons and evaluations. Everything else is the page.

A guard in front of all of it (guard.py) keeps other sites from driving the studio. A gate in front of Gradio
(ui/gradio_compat/gate.py) passes only what the page needs.
"""

import contextlib
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from studio import __version__, resources
from studio.errors import NotFound, StudioError, Unavailable
from studio.services.chat import comparisons
from studio.services.core import access
from studio.services.core.identity import UnknownVisitor
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets, examples
from studio.services.exports import downloads
from studio.ui import account_panel
from studio.ui.compare import evaluation_page, share
from studio.ui.export import reproduce_view
from studio.ui.gradio_compat import frontend
from studio.ui.gradio_compat.early import Early
from studio.ui.gradio_compat.gate import restrict
from studio.ui.gradio_compat.uploads import only_uploads
from studio.ui.parts.templates import render
from studio.ui.parts.theme import studio_theme
from studio.ui.runs import curves, machine_view, run_list
from studio.ui.train import form
from studio.ui.web import app as pages
from studio.ui.web import pulse, signing_in
from studio.ui.web.auth import Mode, VisitorMiddleware, VisitorSessions
from studio.ui.web.guard import Guard, Policy
from studio.ui.web.uvicorn_compat import ALL, TimedConnection

_REJECTS = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


def make_app(studio: Studio, mode: Mode | None = None) -> FastAPI:
    """The application that serves one studio. mode: how visitors sign in, if it is shared."""
    desk = VisitorSessions(studio.open_to_visitors(), mode) if mode else None
    app = FastAPI(title="LoRA Studio", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Early)
    if desk is not None:
        app.add_middleware(VisitorMiddleware, desk=desk)
        signing_in.add_routes(app, desk)
        app.add_exception_handler(UnknownVisitor, lambda _, error: PlainTextResponse(str(error), status_code=403))
    policy = Policy.of(studio.settings)
    app.add_middleware(Guard, policy=policy)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/download/{export_id}", response_model=None)
    @app.get("/download/{export_id}/{name}", response_model=None)
    def download(export_id: str, name: str = "") -> FileResponse | StreamingResponse | PlainTextResponse:
        try:
            path = downloads.file_of(studio, export_id, name)
            if path is not None:
                return FileResponse(path, filename=path.name)
            file_name, parts = downloads.archive_of(studio, export_id)
        except StudioError as error:
            return PlainTextResponse(access.for_reader(studio, error), status_code=404)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(file_name)}"}
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    @app.get("/evaluation/{evaluation_id}.{form}", response_model=None)
    def evaluation(evaluation_id: str, form: str) -> PlainTextResponse:
        try:
            text = evaluation_page.share(studio, evaluation_id, form)
        except StudioError as error:
            return PlainTextResponse(access.for_reader(studio, error), status_code=404)
        return PlainTextResponse(
            text,
            media_type="text/html" if form == "html" else "application/json",
            headers={"Content-Disposition": f'attachment; filename="evaluation-{evaluation_id}.{form}"'},
        )

    @app.get("/rejects/{key}.{form}", response_model=None)
    def rejects(key: str, form: str) -> StreamingResponse | PlainTextResponse:
        if form not in _REJECTS:
            return PlainTextResponse("Rejects are available as .jsonl or .csv.", status_code=404)
        try:
            name, lines = _name_of(studio, key), checks.rejects(examples.folder_of(studio, key), form)
        except StudioError as error:
            return PlainTextResponse(access.for_reader(studio, error), status_code=404)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(f'{name}-rejects.{form}')}"}
        return StreamingResponse(lines, media_type=_REJECTS[form], headers=headers)

    @app.get("/comparison/{key}.{form}", response_model=None)
    def comparison(key: str, form: str) -> Response:
        if form not in ("html", "json"):
            return PlainTextResponse("Comparisons are available as .html or .json.", status_code=404)
        try:
            saved = comparisons.load(studio, key)
        except StudioError as error:
            return PlainTextResponse(access.for_reader(studio, error), status_code=404)
        # Always a download, never a page of this studio, because it contains text written by a model.
        headers = {
            "Content-Disposition": f'attachment; filename="comparison-{key[:8]}.{form}"',
            "Content-Security-Policy": f"{share.POLICY}; sandbox",
            "X-Content-Type-Options": "nosniff",
        }
        if form == "json":
            return JSONResponse(comparisons.as_dict(saved), headers=headers)
        return HTMLResponse(share.page(saved, f"LoRA Studio {__version__}"), headers=headers)

    curves.add_routes(app, studio)
    run_list.add_routes(app, studio)
    pulse.add_routes(app, studio)
    machine_view.add_routes(app, studio)
    reproduce_view.add_routes(app, studio)
    if desk is not None:
        account_panel.add_routes(app, studio)
    # Gradio also requests a few of its own files under /static: ours come first, then Gradio's.
    files = StaticFiles(directory=resources.static(), packages=[(frontend.PACKAGE, frontend.STATIC)])
    app.mount("/static", files, name="static")
    gr.mount_gradio_app(
        app,
        only_uploads(pages.build(studio, desk)),
        path="/",
        server_name=studio.settings.host,
        server_port=studio.settings.port,
        theme=studio_theme(),
        head=render("web/head.html", field_rules=form.rules()),
        favicon_path=str(resources.static() / "icon.png"),
        footer_links=[],
        allowed_paths=[],
        blocked_paths=_never_served(studio),
        max_file_size=studio.settings.max_file_mb * 2**20,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        show_error=True,
    )
    return restrict(app, policy)


def _never_served(studio: Studio) -> list[str]:
    """Paths that Gradio must not serve: everything in the home except the uploads folder."""
    uploads = studio.settings.uploads
    inside = [path for path in studio.settings.home.iterdir() if path != studio.settings.cache]
    return [str(path) for path in (*inside, *studio.settings.cache.iterdir()) if path != uploads]


def _name_of(studio: Studio, key: str) -> str:
    """The name of a dataset or of a checked file."""
    try:
        return Path(checks.get(studio, key).path).name.partition(".")[0]
    except NotFound:
        return datasets.get(studio, key).name


def listening(studio: Studio, app: FastAPI) -> uvicorn.Config:
    """The server's configuration, with limits on connections and shutdown time."""
    return uvicorn.Config(
        app,
        host=studio.settings.host,
        port=studio.settings.port,
        log_level="warning",
        access_log=False,
        http=TimedConnection,
        ws="none",
        limit_concurrency=ALL,
        server_header=False,
        proxy_headers=False,  # the guard reads them, if the proxy is trusted
        timeout_graceful_shutdown=2,  # open pages never close their streams
    )


def serve(studio: Studio, mode: Mode | None = None) -> None:
    """Serve until interrupted. mode: as in make_app."""
    # Gradio takes this folder only from the environment. Files left by an earlier studio are of no use.
    uploads = studio.settings.uploads
    shutil.rmtree(uploads, ignore_errors=True)
    uploads.mkdir(mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    server = uvicorn.Server(listening(studio, make_app(studio, mode)))
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise Unavailable(f"The studio could not listen on port {studio.settings.port}.")
