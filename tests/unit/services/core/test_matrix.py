"""Two visitors of one studio: whatever one of them asks with the other's ids, at every door there is, tells nothing.

The doors are found, not listed: every function of the services that takes an id, every route, every event of the page.
Each is first tried as the owner, so that a test which asks nothing that could tell anything is noticed.
"""

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import GeneratorType
from typing import Any

import gradio as gr
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.routing import Route

import studio.services
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.services.core.identity import LOCAL, NOBODY, Visitor, acting, asking
from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.data import datasets
from studio.services.exports import exports, publishing
from studio.services.models import combining, imports
from studio.services.runs import run_list, runs
from studio.ui.web import app as pages
from studio.ui.web.auth import COOKIE, VisitorMiddleware, VisitorSessions
from studio.ui.web.server import make_app
from tests.belongings import Things, make, rows
from tests.conftest import write_jsonl

pytestmark = pytest.mark.slow

ANN, BEN = Visitor("anon-" + "a" * 32, kind="anonymous"), Visitor("account-7", "ben")
MARK = "zebrafinch"
# What takes no id of a visitor's, or only what came through the gate: the names of their first parameters.
TAKES_NO_ID = {
    "row", "rows", "run", "found", "new", "comparison", "turn", "info", "model_id", "source", "model", "dataset",
    "together", "query", "sides", "session", "password", "owner", "hub_id", "folder", "recipe", "wish", "after",
    "since", "seconds", "budget", "device_memory", "text", "at_work", "visitor", "now", "provenance",
    "request", "stored", "result",
}  # fmt: skip
TAKES_ID = {
    "key", "run_id", "dataset_id", "export_id", "evaluation_id", "token", "written", "keys", "only", "path",
}  # fmt: skip
# Doors for who owns the machine, or for what is under way anyway.
INNER = {("accounts", "sign_in"), ("imports", "from_zip"), ("chat", "let_go"), ("evaluations", "start")}


@pytest.fixture
def shared(nothing_starts: None, ready: Studio, tmp_path: Path) -> Iterator[tuple[Studio, Things]]:
    """A studio that is open to visitors, where Ann has one of everything."""
    ready.open_to_visitors()
    yield ready, make(ready, ANN, MARK, tmp_path / "ann")
    ready.for_visitors = False


def doors() -> list[tuple[str, str, Callable[..., Any]]]:
    found = []
    for module in pkgutil.walk_packages(studio.services.__path__, "studio.services."):
        loaded = importlib.import_module(module.name)
        for name, function in vars(loaded).items():
            if not inspect.isfunction(function) or name.startswith("_") or function.__module__ != loaded.__name__:
                continue
            names = list(inspect.signature(function).parameters)
            if names[:1] == ["studio"]:
                found.append((module.name.rpartition(".")[2], name, function))
    return found


def id_doors() -> list[tuple[str, str, Callable[..., Any]]]:
    return [
        one for one in doors()
        if len(names := list(inspect.signature(one[2]).parameters)) > 1 and names[1] in TAKES_ID
        and one[:2] not in INNER
    ]  # fmt: skip


def test_every_door_of_the_services_is_known() -> None:
    for module, name, function in doors():
        names = list(inspect.signature(function).parameters)
        if len(names) > 1:
            assert names[1] in TAKES_ID | TAKES_NO_ID or names[1] == "name", f"classify services.{module}.{name}{names}"
    assert len(id_doors()) > 60


def filled(function: Callable[..., Any], module: str, key: str, tmp_path: Path) -> dict[str, Any]:
    """Arguments for a door that is asked for one id."""
    recipe = Recipe().with_values({"model": "tiny", "dataset": key, "name": "mine"})
    requests = {
        "publishing": publishing.PublishRequest("someone/mine"),
        "imports": imports.ImportRequest(),
        "curves": curves.WindowRequest.parse("step", None, None, 400, 0.0),
    }
    known: dict[str, Any] = {
        "look": requests["curves"], "request": requests.get(module), "x": "step", "after": 0, "limit": 5, "offset": 0,
        "example": 1, "values": {"text": "mine"}, "model_id": "tiny", "out": tmp_path / "out",
        "target": tmp_path / "target.zip", "recipe": recipe, "name": "mine", "text": "mine", "tags": "mine",
        "form": "zip" if module == "reproduce" else "jsonl", "kind": "merged", "before": key, "steps": 5,
        "examples": [1], "better": "tie", "called": "mine",
    }  # fmt: skip
    given: dict[str, Any] = {}
    for place, (name, parameter) in enumerate(list(inspect.signature(function).parameters.items())[1:]):
        if place == 0:
            given[name] = [key, "base"] if name == "keys" else [key] if name in ("written", "only") and (
                "Sequence" in str(parameter.annotation)) else key  # fmt: skip
        elif name in known and (parameter.default is inspect.Parameter.empty or name == "examples"):
            given[name] = known[name]
    return given


def told(function: Callable[..., Any], arguments: dict[str, Any], asked: Studio) -> str:
    """What a door says, or hands out, or how it refuses."""
    try:
        result = function(asked, **arguments)
        if isinstance(result, GeneratorType):
            result = [step for step, _ in zip(result, range(200), strict=False)]
        text = repr(result)
        if isinstance(result, tuple) and any(isinstance(one, Iterator) for one in result):
            parts = [part for one in result if isinstance(one, Iterator) for part in one]
            text += "".join(part if isinstance(part, str) else part.decode("latin-1") for part in parts)
        paths = result if isinstance(result, (list, tuple)) else [result]
        for path in [getattr(one, "path", one) for one in paths]:
            if isinstance(path, Path) and path.is_relative_to(asked.settings.home):
                text += f" {MARK if MARK in _content(path) else ''}"
        return text
    except StudioError as error:
        return f"refused: {error}"


def _content(path: Path) -> str:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else []
    return "".join(one.read_bytes().decode("latin-1") for one in files)


def state_of(home: Path) -> dict[str, bytes]:
    """All that stands in a home, but the index of it and what is only remembered."""
    skipped = ("studio.db", "cache", "keeper.lock", "staging", ".about.lock")
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not str(path.relative_to(home)).startswith(skipped) and path.suffix != ".lock"
    }


def mine_only(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Nothing that was there is changed or gone."""
    assert [name for name, content in before.items() if after.get(name) != content] == []


def test_services_tell_nothing_of_anothers(
    shared: tuple[Studio, Things], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, things = shared
    for waits in (combining, exports):
        monkeypatch.setattr(waits, "_POLL", 0)  # before they refuse
    before, calls, leaks = state_of(asked.settings.home), 0, []
    for visitor in (BEN, Visitor("anon-" + "b" * 32, kind="anonymous"), NOBODY, None):
        for module, name, function in id_doors():
            for noun, key in things.ids.items():
                token = asking.set(visitor)
                try:
                    text = told(function, filled(function, module, key, tmp_path), asked)
                finally:
                    asking.reset(token)
                calls += 1
                if MARK in text.replace(key, ""):
                    leaks.append((visitor and visitor.owner, module, name, noun, text[:300]))
    assert leaks == []
    mine_only(before, state_of(asked.settings.home))
    print(f"\n{calls:,} calls, {len(leaks)} leaks")


def test_the_owner_is_told_by_the_same_doors(shared: tuple[Studio, Things], tmp_path: Path) -> None:
    """Reading ones: those that end or change something are left out."""
    asked, things = shared
    quiet = ("get", "find", "list", "folder", "rows", "see", "recipe", "log", "points", "of", "as_", "prompts", "load",
             "choices", "resolve", "tell", "held_out", "kinds", "targets", "judged", "archive_of", "csv",
             "rejects")  # fmt: skip
    telling = set()
    with acting(ANN):
        for module, name, function in id_doors():
            if name.startswith(quiet):
                for key in things.ids.values():
                    with contextlib.suppress(TypeError, OSError):
                        if MARK in told(function, filled(function, module, key, tmp_path), asked).replace(key, ""):
                            telling.add((module, name))
    assert len(telling) >= 20, telling


def test_the_same_examples_are_two_datasets(shared: tuple[Studio, Things], tmp_path: Path) -> None:
    """Who adds what another has already does not learn of it, nor of what it is called there."""
    asked, things = shared
    with acting(BEN):
        file = write_jsonl(tmp_path / "same.jsonl", rows(f"{MARK}-data"))
        kept = asked.settings.staging / "ben"
        kept.mkdir()
        own = datasets.add(asked, _uploaded(asked, file), "mine")
        assert own.name == "mine" and own.id != things.ids["dataset"]
        assert [info.name for info in datasets.list_datasets(asked)] == ["mine"]
    with acting(ANN):
        assert datasets.get(asked, things.ids["dataset"]).sha256 == own.sha256


def _uploaded(asked: Studio, file: Path) -> str:
    from studio.services.data import checks

    return checks.take_in(asked, file)


def test_visitors_name_no_files_of_the_machine(shared: tuple[Studio, Things], tmp_path: Path) -> None:
    from studio.services.data import checks
    from studio.services.models import models

    asked, things = shared
    secret = write_jsonl(tmp_path / "secret.jsonl", rows("secret"))
    for path in (str(secret), things.ids["upload"], "/etc/passwd", "docs/data.md", "../../x"):
        with acting(BEN), pytest.raises(StudioError, match=r"Upload the file instead|stay offline"):
            checks.check(asked, path)
    with acting(BEN), pytest.raises(StudioError, match="only by the person"):
        models.add(asked, str(tmp_path), lambda *_: None)


def test_lists_are_ones_own(shared: tuple[Studio, Things]) -> None:
    asked, _ = shared
    for visitor in (BEN, Visitor("anon-" + "c" * 32)):
        with acting(visitor):
            found = run_list.find(asked, run_list.Query())
            assert (found.total, found.kept.count, found.facets["dataset"]) == (0, 0, {})
            assert runs.list_runs(asked) == [] and run_list.current(asked) == []
    with acting(ANN):
        assert run_list.find(asked, run_list.Query()).total == 2
    with pytest.raises(StudioError, match="does not know who is asking"):
        runs.list_runs(asked)


def test_notices_name_nobody_elses_runs(shared: tuple[Studio, Things]) -> None:
    asked, things = shared
    asked.notice(things.ids["run"], f"Run {MARK} cannot be looked after.")
    asked.notice("all", "The sample model is being prepared.")
    with acting(BEN):
        assert asked.notices == ["The sample model is being prepared."]
    with acting(ANN):
        assert any(MARK in text for text in asked.notices)
    with acting(LOCAL):
        assert len(asked.notices) == 2


# Routes


@pytest.fixture
def served(shared: tuple[Studio, Things]) -> tuple[Studio, Things, Any]:
    asked, things = shared
    return asked, things, make_app(asked, "hosted")


def client(app: Any, asked: Studio, visitor: Visitor | None) -> TestClient:
    made = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
    if visitor is not None:
        line = VisitorSessions(asked, "hosted").cookie(visitor, made.headers)  # type: ignore[arg-type]
        name, _, value = line.partition(";")[0].partition("=")
        assert name == COOKIE
        made.cookies.set(name, value)
    return made


def addresses(app: Any, key: str) -> list[tuple[str, str, Any]]:
    """Method, address and body of every route of ours, asked for an id."""
    found: list[tuple[str, str, Any]] = []
    for route in app.routes:
        if not isinstance(route, Route):
            continue
        path = route.path
        for form in ("json", "html", "csv", "jsonl", "zip", "py", "ipynb", "yaml"):
            full = path.replace("{form}", form)
            for name in ("export_id", "evaluation_id", "key", "run_id"):
                full = full.replace(f"{{{name}}}", key)
            full = full.replace("{name}", "model.safetensors")
            for method in route.methods or ():
                if method != "HEAD":
                    found.append((method, full, {"name": "taken", "runs": [key]} if method == "POST" else None))
    queries = (f"/curves?run={key}", f"/runs.json?search={MARK}", "/runs.json", "/trash.json", "/machine")
    return list({(m, p): (m, p, b) for m, p, b in [*found, *(("GET", q, None) for q in queries)]}.values())


def test_routes_tell_nothing_of_anothers(served: tuple[Studio, Things, Any]) -> None:
    asked, things, app = served
    before, leaks, count = state_of(asked.settings.home), [], 0
    for visitor in (BEN, Visitor("anon-" + "b" * 32, kind="anonymous"), None):
        here = client(app, asked, visitor)
        for key in things.ids.values():
            if "/" in key:
                continue
            for method, path, body in addresses(app, key):
                body = {"name": "taken"} if path.startswith("/runs/") else {"runs": [key]} if body else None
                answer = here.request(method, path, json=body) if body else here.request(method, path)
                count += 1
                if MARK in answer.text.replace(key, ""):
                    leaks.append((visitor, method, path, answer.text[:200]))
    assert leaks == [] and count > 1000
    mine_only(before, state_of(asked.settings.home))
    own = client(app, asked, ANN)
    assert MARK in own.get("/runs.json").text
    assert MARK in own.get(f"/comparison/{things.ids['comparison']}.html").text
    assert MARK in own.get(f"/points/{things.ids['run']}.csv").headers["content-disposition"]


def test_a_forged_or_old_cookie_is_nobodys(served: tuple[Studio, Things, Any]) -> None:
    asked, things, app = served
    own = client(app, asked, ANN)
    value = own.cookies[COOKIE]
    for forged in (value[:-2] + "AA", value.replace(".", "", 1), "", "a.b.c", '["account","anon-a","x","y"]'):
        other = client(app, asked, None)
        other.cookies.set(COOKIE, forged)
        assert "error" in other.get(f"/runs/{things.ids['run']}.json").json()
    # Signed out: the cookie is not taken again, should someone have kept it.
    desk = next(layer for layer in app.user_middleware if layer.cls is VisitorMiddleware).kwargs["desk"]
    kept = client(app, asked, ANN)
    assert MARK in kept.get(f"/runs/{things.ids['run']}.json").text
    out = kept.post("/sign-out")
    assert out.status_code == 303 and "Max-Age=0" in out.headers["set-cookie"]
    again = client(app, asked, None)
    again.cookies.set(COOKIE, kept.cookies.get(COOKIE) or "")
    assert desk.mode == "hosted" and MARK not in again.get(f"/runs/{things.ids['run']}.json").text


def test_nobody_uploads_and_gradio_gives_no_file_out(served: tuple[Studio, Things, Any]) -> None:
    asked, things, app = served
    nobody, own = client(app, asked, None), client(app, asked, ANN)
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict", "/runs/x", "/trash"):
        assert nobody.post(path, json={}).status_code == 403, path
    assert nobody.get("/gradio_api/queue/data?session_hash=x").status_code == 403
    for path in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
        assert own.get(f"{path}{things.ids['upload']}").status_code == 404


def test_who_is_new_is_given_a_cookie_at_the_page_alone(served: tuple[Studio, Things, Any]) -> None:
    asked, _, app = served
    new = client(app, asked, None)
    assert "set-cookie" not in new.get("/runs.json").headers
    given = new.get("/").headers["set-cookie"]
    assert given.startswith(f"{COOKIE}=") and "HttpOnly" in given and "SameSite=Lax" in given
    assert "set-cookie" not in new.get("/").headers
    assert new.get("/runs.json").json()["total"] == 0


# Events


def request_of(visitor: Visitor | None, page: str) -> gr.Request:
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    if visitor is not None:
        scope["studio.visitor"] = visitor
    return gr.Request(request=Request(scope), session_hash=page)


def given_to(component: Any, key: str) -> Any:
    """What a hostile page might send for a component."""
    value = getattr(component, "value", None)
    if isinstance(component, gr.State):
        return key if isinstance(value, str) else type(value)(value) if isinstance(value, (dict, list)) else value
    if isinstance(component, (gr.Number, gr.Slider)):
        return value if value is not None else 1
    if isinstance(component, (gr.File, gr.UploadButton, gr.Checkbox, gr.Timer)):
        return None if not isinstance(component, gr.Checkbox) else False
    if isinstance(component, gr.Dropdown) and component.multiselect:
        return [key]
    return key


def said_by(page: Any, function: Any, key: str, visitor: Visitor | None, name: str) -> str:
    """Everything that an event answers, a generator to its end."""
    values = [given_to(component, key) for component in function.inputs]
    try:
        return heard(page, function, values, visitor, key, name)
    except Exception as error:
        return f"refused: {error}"


def heard(
    page: Any, function: Any, values: list[Any], visitor: Visitor | None, picked: str = "", name: str = "page"
) -> str:
    """What an event answers to these values, step by step. picked: what the page says was clicked; name: the page's."""
    names = ("open", "stop", "of", "ask", "beside", "cancel", "delete", "again", "id", "keep", "publish", "target")
    data = {part: picked for part in names} | {
        "row": 1, "prompt": 0, "offset": 0, "vote": "1", "typed": picked, "kind": ""
    }  # fmt: skip

    async def all_of() -> str:
        said, steps = "", None
        event = gr.EventData(None, data)
        for _ in range(60):
            result = await page.call_function(
                function, list(values), steps, request_of(visitor, name), event_data=event, in_event_listener=True
            )
            prediction, steps = result["prediction"], result.get("iterator")
            if prediction.__class__.__name__ in ("FINISHED", "_Keywords"):
                break
            said += repr(prediction)
            if not result.get("is_generating"):
                break
        return said

    # In a thread of its own: where a browser is driven in this process, this one has a loop that runs.
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(contextvars.copy_context().run, asyncio.run, all_of()).result()


def test_events_tell_nothing_of_anothers(shared: tuple[Studio, Things]) -> None:
    asked, things = shared
    # The sample's model is not to be had: preparing it, for whoever asks, takes half a minute and tells nothing.
    asked.settings = asked.settings.model_copy(update={"hosted": True, "hosted_models": "tiny"})
    page = pages.build(asked, VisitorSessions(asked, "hosted"))
    functions = [function for function in page.fns.values() if function.fn]
    assert len(functions) > 80
    before = state_of(asked.settings.home)
    asked_of, leaks = 0, []
    nouns = ("run", "dataset", "export", "adapter", "evaluation", "check", "comparison", "prompts", "upload")
    for function in functions:
        for noun in nouns:
            key = things.ids[noun]
            for visitor in (BEN,) if noun != "run" else (BEN, None):
                text = said_by(page, function, key, visitor, "ben" if visitor else "nobody")
                asked_of += 1
                if MARK in text.replace(key, ""):
                    leaks.append((noun, getattr(function.fn, "__qualname__", function.fn), text[:300]))
    assert leaks == []
    print(f"\n{asked_of:,} events, {len(leaks)} leaks")
    mine_only(before, state_of(asked.settings.home))
    # The same, asked by their owner: otherwise this would see no leak.
    told = {function: said_by(page, function, things.ids["run"], ANN, "ann") for function in functions}
    assert sum(MARK in text for text in told.values()) > 5
    # And where on this machine their things are kept is not told to them either.
    home = str(asked.settings.home)
    paths = [(getattr(function.fn, "__qualname__", ""), text) for function, text in told.items() if home in text]
    assert not paths, [(name, text[max(0, text.index(home) - 200) :][:400]) for name, text in paths]


def test_no_event_is_done_for_nobody_in_particular(shared: tuple[Studio, Things]) -> None:
    """Every handler is called, and every step of one taken, with who asks; also those with timers and at the load."""
    asked, _ = shared
    page = pages.build(asked, VisitorSessions(asked, "hosted"))
    heard: list[str] = []

    def plain() -> str:
        heard.append(asked.owner)
        return asked.owner

    def steps() -> Iterator[str]:
        for _ in range(3):
            heard.append(asked.owner)
            yield asked.owner
        heard.append(asked.owner)

    async def later() -> str:
        await asyncio.sleep(0)
        heard.append(asked.owner)
        return asked.owner

    functions = list(page.fns.values())
    kinds = [bool(inspect.isgeneratorfunction(inspect.unwrap(function.fn))) for function in functions if function.fn]
    assert any(kinds) and not all(kinds)
    for stand_in, times in ((plain, 1), (steps, 4), (later, 1)):
        for function in random.Random(1).sample(functions, 12):
            function.fn, function.inputs = stand_in, []
            heard.clear()
            said_by(page, function, "", BEN, "ben")
            assert heard == [BEN.owner] * times
            assert "does not know who is asking" in said_by(page, function, "", None, "lost")


def test_a_page_stays_its_visitors(shared: tuple[Studio, Things]) -> None:
    """Gradio keeps what a page holds under a name that the page chooses: whoever else says it is refused."""
    asked, _ = shared
    desk = VisitorSessions(asked, "hosted")
    page = pages.build(asked, desk)
    function = next(function for function in page.fns.values() if function.fn)
    function.fn, function.inputs = (lambda: "done"), []
    assert "done" in said_by(page, function, "", ANN, "ann's page")
    assert "opened by someone else" in said_by(page, function, "", BEN, "ann's page")
    app = make_app(asked, "hosted")
    first, other = client(app, asked, ANN), client(app, asked, BEN)
    assert first.get("/gradio_api/upload_progress?upload_id=x&session_hash=one").status_code != 403
    assert other.get("/gradio_api/upload_progress?upload_id=x&session_hash=one").status_code == 403


def test_at_home_there_is_one_owner(studio: Studio) -> None:
    assert studio.owner == "local" and studio.visitor.kind == "local"
    app = make_app(studio)
    assert VisitorMiddleware not in [layer.cls for layer in app.user_middleware]
    here = TestClient(app, base_url="http://127.0.0.1")
    assert "set-cookie" not in here.get("/").headers and here.get("/runs.json").json()["total"] == 0
