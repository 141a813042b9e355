"""Every way in: each route of the application and of Gradio, and each event of the page, and what it may be used for.

A route or an event that is not listed here fails the test: say whose things it shows or changes, and how it knows.
"""

import contextlib
import functools
import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Mount

from studio.services.core.keeper import Keeper
from studio.settings import Settings
from studio.ui.gradio_compat.gate import NEEDED, Gate, needed
from studio.ui.web.server import make_app
from tests import oidc
from tests.security.conftest import House

# Of our own routes: what each is.
#   open    tells nothing of anybody: that the studio is alive, files that come with it
#   owned   asks a service for one thing by its id; the service's gate says whose it is
#   listed  asks a service for all that is the asker's
#   machine tells of the machine
#   write   as owned, and changes it
#   enter   says who one is from now on: by a password, by the word of the provider, or nobody any more
OURS = {
    "GET /healthz": "open",
    "GET /static/{path}": "open",
    "GET /download/{export_id}": "owned",
    "GET /download/{export_id}/{name}": "owned",
    "GET /evaluation/{evaluation_id}.{form}": "owned",
    "GET /rejects/{key}.{form}": "owned",
    "GET /comparison/{key}.{form}": "owned",
    "GET /curves": "owned",
    "GET /curves/{run_id}": "owned",
    "GET /points/{run_id}.csv": "owned",
    "GET /points/{run_id}.zip": "owned",
    "GET /runs.json": "listed",
    "GET /runs/{run_id}.json": "owned",
    "POST /runs/{run_id}": "write",
    "GET /trash.json": "listed",
    "POST /trash": "write",
    "GET /machine": "machine",
    "GET /pulse": "listed",
    "GET /reproduce/{run_id}.{form}": "owned",
}

# What a studio that others reach has besides, by how they are known: hosted without signing in, on a Space with its
# provider, and a team's.
BESIDES = {
    "hosted": {"GET /mine.zip": "listed", "POST /sign-out": "enter"},
    "space": {"GET /mine.zip": "listed", "POST /sign-out": "enter", "GET /sign-in": "enter",
              "GET /login/callback": "enter"},
    "team": {"GET /mine.zip": "listed", "POST /sign-out": "enter", "GET /sign-in": "enter", "POST /sign-in": "enter"},
}  # fmt: skip

# Of Gradio's routes those that the page needs, and why; everything else of Gradio is refused.
#   page    the page itself and its files, the same for everybody
#   event   carries the page's events, whose handlers are below; bound to the session that the page drew by lot
#   upload  takes a file in; nothing gives one out
#   login   answers "nobody" where no login is set
GRADIO = {
    "GET /": "page", "HEAD /": "page", "GET /config": "page", "GET /config/": "page", "GET /theme.css": "page",
    "GET /gradio_api/theme.css": "page", "GET /static/{path:path}": "page", "GET /assets/{path:path}": "page",
    "GET /favicon.ico": "page", "GET /robots.txt": "page", "GET /manifest.json": "page",
    "GET /gradio_api/info": "page", "GET /gradio_api/info/": "page", "GET /gradio_api/app_id": "page",
    "GET /gradio_api/app_id/": "page", "GET /gradio_api/startup-events": "page",
    "POST /gradio_api/queue/join": "event", "GET /gradio_api/queue/data": "event",
    "GET /gradio_api/heartbeat/{session_hash}": "event", "POST /gradio_api/cancel": "event",
    "POST /gradio_api/reset": "event", "POST /gradio_api/reset/": "event",
    "POST /gradio_api/run/{api_name}": "event", "POST /gradio_api/run/{api_name}/": "event",
    "POST /gradio_api/call/{api_name}": "event", "POST /gradio_api/call/{api_name}/": "event",
    "GET /gradio_api/call/{api_name}/{event_id}": "event",
    "POST /gradio_api/upload": "upload", "GET /gradio_api/upload_progress": "upload",
    "POST /login": "login", "POST /login/": "login", "GET /logout": "login", "GET /gradio_api/user": "login",
    "GET /gradio_api/user/": "login", "GET /gradio_api/login_check": "login", "GET /gradio_api/login_check/": "login",
    "GET /login/huggingface": "login", "GET /login/callback": "login",
}  # fmt: skip

# Refused: what it would have given.
REFUSED = {
    "serves files by path": ("/gradio_api/file={path_or_url:path}", "/gradio_api/file/{path:path}",
        "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}", "/svelte/{path:path}"),
    "fetches addresses": ("/gradio_api/proxy={url_path:path}",),
    "gives a session's streams": ("/gradio_api/stream/{event_id}", "/gradio_api/stream/{event_id}/close",
        "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
        "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
        "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file"),
    "calls functions of components": ("/gradio_api/component_server", "/gradio_api/component_server/"),
    "writes to disk": ("/gradio_api/process_recording", "/gradio_api/deep_link"),
    "edits the application": ("/gradio_api/vibe-edit", "/gradio_api/vibe-edit/", "/gradio_api/undo-vibe-edit",
        "/gradio_api/undo-vibe-edit/", "/gradio_api/vibe-code", "/gradio_api/vibe-code/",
        "/gradio_api/vibe-starter-queries", "/gradio_api/vibe-starter-queries/", "/gradio_api/dev/reload"),
    "tells who did what": ("/gradio_api/runs", "/gradio_api/runs/", "/monitoring", "/monitoring/summary",
        "/monitoring/{key}"),
    "tells a login's token": ("/gradio_api/token", "/gradio_api/token/"),
    "calls events in a way that the page does not use": ("/gradio_api/api/{api_name}", "/gradio_api/api/{api_name}/",
        "/gradio_api/call/v2/{api_name}", "/gradio_api/call/v2/{api_name}/",
        "/gradio_api/call/v2/{api_name}/{event_id}"),
    "is for nobody": ("/openapi.json", "/gradio_api/openapi.json", "/gradio_api/queue/status", "/pwa_icon",
        "/pwa_icon/{size}"),
}  # fmt: skip

# Handlers of the page's events, by module: all but those of `web.api` are private. What each is:
#   owned  works on what is the asker's, by an id, through services
#   form   computes from what stands in the form, and from models and presets that everybody has
#   page   changes only what this page shows
EVENTS = {
    "web.api": {"owned": "add_dataset chat check datasets estimate export exports models run runs stop train"},
    "data.adding": {"owned": "decode discard fetch keep look open_mapping read take"},
    "data.decisions": {"owned": "decide"},
    "web.app": {
        "owned": "after_start arrive ask_adapter clone use_dataset when_first_ends",
        "page": "open_name <lambda>",
    },
    "parts.busy": {"page": "cancel"},
    "export.combining": {"owned": "begin pick"},
    "compare.evaluation_fold": {"owned": "take_over"},
    "compare.tab": {
        "owned": "anew ask choose drawn edit free look reopen retry stop take vote",
        "page": "blinded <lambda>",
    },
    "data.tab": {"owned": "pick revisit show"},
    "export.tab": {"owned": "begin pick refresh reopen"},
    "export.import_view": {"owned": "bring"},
    "train.model_box": {"form": "fetch"},
    "export.publish_view": {"owned": "look open_for send"},
    "export.reproduce_view": {"owned": "show"},
    "runs.actions": {"owned": "handler go_on"},
    "runs.tab": {"owned": "anew arrange pick refresh", "page": "tell"},
    "compare.scores_view": {"owned": "add_own begin follow open_run show turn"},
    "sidebar": {"owned": "act refresh stop"},
    "data.findings": {"owned": "judge leave_out turn"},
    "data.steps": {"owned": "leaf measure open_editor save see", "page": "turn_on <lambda>"},
    "train.tab": {
        "owned": "begin begin_sample open_tab price rehearse use_model",
        "form": "apply choose_model choose_modules choose_preset edited open_recipe reset",
    },
}


def gradio_of(app: FastAPI) -> Any:
    (gate,) = [route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, Gate)]
    return gate.app


def blocks_of(app: FastAPI) -> Any:
    return gradio_of(app).get_blocks()


def _walk(routes: Any) -> list[tuple[str, str]]:
    found = []
    for route in routes:
        if hasattr(route, "original_router"):
            found += _walk(route.original_router.routes)
        elif hasattr(route, "methods"):
            found += [(method, route.path) for method in sorted(route.methods or ()) if method != "OPTIONS"]
        elif isinstance(route, Mount) and not isinstance(route.app, Gate):
            found.append(("GET", f"{route.path}/{{path}}"))
    return found


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of everything that may be asked for: ours, then Gradio's."""
    return _walk(app.routes) + _walk(gradio_of(app).routes)


def handler(function: Any) -> tuple[str, str]:
    """Module and name of the code behind an event, without what is wrapped around it."""
    while True:
        inner = inspect.unwrap(function)
        if isinstance(inner, functools.partial):
            inner = inner.func
        if inner is function:
            return function.__module__.removeprefix("studio.ui."), function.__qualname__.rpartition(".")[2]
        function = inner


def test_each_of_our_routes_is_listed(house: House) -> None:
    found = {f"{method} {path}" for method, path in _walk(house.app.routes)}
    assert found - OURS.keys() == set(), "say in OURS what these are for"
    assert OURS.keys() - found == set(), "these are gone"


@pytest.fixture(scope="module", params=list(BESIDES))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FastAPI]]:
    """How visitors are known, and the application that serves them."""
    known, folder = str(request.param), tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        if known == "space":
            told = stack.enter_context(oidc.provider("http://127.0.0.1")).environment()
            for name, value in ({"SPACE_ID": "someone/studio", "SPACE_HOST": "127.0.0.1"} | told).items():
                patch.setenv(name, value)
        studio = stack.enter_context(Keeper(Settings(home=folder / "home", offline=True)))
        yield known, make_app(studio, "team" if known == "team" else "hosted")


def test_what_others_reach_is_listed_however_they_are_known(shared: tuple[str, FastAPI]) -> None:
    known, app = shared
    found = {f"{method} {path}" for method, path in _walk(app.routes)}
    listed = OURS.keys() | BESIDES[known].keys()
    assert found - listed == set(), "say in BESIDES, or in OURS, what these are for"
    assert listed - found == set(), "these are gone"
    all_of_gradio_is_classified(app)
    events_are_listed(app)


def test_who_is_not_known_is_told_nothing_that_is_somebodys(shared: tuple[str, FastAPI]) -> None:
    known, app = shared
    nobody = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
    for entry, kind in BESIDES[known].items():
        method, _, path = entry.partition(" ")
        if kind == "listed":
            assert nobody.request(method, path).status_code == (401 if known == "team" else 403), entry


def test_each_of_gradio_s_routes_is_needed_or_refused(house: House) -> None:
    all_of_gradio_is_classified(house.app)
    assert sum(map(len, NEEDED.values())) < 30


def all_of_gradio_is_classified(app: FastAPI) -> None:
    refused = {path for paths in REFUSED.values() for path in paths}
    found = _walk(gradio_of(app).routes)
    assert len(found) > 60
    for method, path in found:
        listed = f"{method} {path}" in GRADIO
        assert listed or path in refused or method == "HEAD", f"say in GRADIO or REFUSED what {method} {path} is for"
        assert not (listed and path in refused)
    unknown = {f"{method} {path}" for method, path in found}
    assert GRADIO.keys() - unknown <= {"GET /login/huggingface", "GET /login/callback"}, "these are gone"


def filled(path: str) -> str:
    return "/".join(
        part.partition("{")[0] + "x1" + part.rpartition("}")[2] if "{" in part else part for part in path.split("/")
    )


def test_what_is_refused_is_not_there_and_what_is_needed_is(house: House) -> None:
    refused = sorted({path for paths in REFUSED.values() for path in paths})
    for path in refused:
        served = {method for method, known in _walk(gradio_of(house.app).routes) if known == path}
        for method in {*served, "PUT", "DELETE", "OPTIONS"}:
            assert not needed(method, filled(path)), (method, path)
        answer = house.ask(min(served), filled(path))
        assert answer.status == 404 and answer.body == b"There is nothing here.", path
    for entry in GRADIO:
        method, _, path = entry.partition(" ")
        assert needed(method, filled(path)), entry


ODD_PATHS = (
    "/gradio_api/file=/etc/passwd", "/gradio_api/file%3d/etc/passwd", "/gradio_api//file=/etc/passwd",
    "//gradio_api/file=/etc/passwd", "/./gradio_api/file=/etc/passwd", "/GRADIO_API/file=/etc/passwd",
    "/gradio_api/queue/../file=/etc/passwd", "/gradio_api/heartbeat/../file=/etc/passwd", "/gradio_api/upload/",
    "/gradio_api/%66ile=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/", "/static/..%2f..%2fpyproject.toml",
    "/assets/../../../etc/passwd", "/assets/..%2f..%2f..%2f..%2fetc/passwd", "/gradio_api/call/a/b/../../file=/x",
)  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
def test_no_spelling_leads_past_the_gate(house: House, path: str) -> None:
    answer = house.ask("GET", path)
    assert answer.status in (307, 404, 405) and b"root:" not in answer.body, answer


@pytest.mark.parametrize("session", [{}, {"session_hash": "s"}])
@pytest.mark.parametrize("path", ["/gradio_api/run/nothing", "/gradio_api/call/nothing", "/gradio_api/queue/join"])
def test_an_event_that_there_is_not_is_not_found(house: House, path: str, session: dict[str, str]) -> None:
    """By its name or by its number; with and without a session. Gradio falls over these."""
    for numbered in ({}, {"fn_index": 99_999}, {"fn_index": -1}):
        sent = json.dumps({"data": ["x"], **session, **numbered}).encode()
        answer = house.ask("POST", path, {"Content-Type": "application/json"}, sent)
        assert answer.status in (400, 404) and b"Traceback" not in answer.body, (path, numbered, answer)


def test_each_event_of_the_page_is_listed_and_private(house: House) -> None:
    events_are_listed(house.app)


def events_are_listed(app: FastAPI) -> None:
    found = {handler(event.fn) for event in blocks_of(app).fns.values() if event.fn}
    listed = {(module, name) for module, kinds in EVENTS.items() for names in kinds.values() for name in names.split()}
    assert found - listed == set(), "say in EVENTS what these are for"
    assert listed - found == set(), "these are gone"
    public = {event.api_name for event in blocks_of(app).fns.values() if event.api_visibility != "private"}
    assert public == {name for names in EVENTS["web.api"].values() for name in names.split()}


def test_only_the_public_api_is_offered(house: House) -> None:
    answer = house.ask("GET", "/gradio_api/info")
    told = json.loads(answer.body)
    assert answer.status == 200 and told["unnamed_endpoints"] == {}
    assert {name.strip("/") for name in told["named_endpoints"]} == set(EVENTS["web.api"]["owned"].split())
