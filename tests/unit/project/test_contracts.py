"""What the studio uses of libraries without their promise is there, and does what the studio counts on.

Each room names it in RELIES_ON. What a new version took away or changed is said here in a sentence that tells what it
breaks, before anybody finds out by it.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.resources
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import jinja2
import pytest
import yaml
from fastapi import FastAPI
from starlette.testclient import TestClient

from studio.dataset.tokens import sandbox
from studio.hub import compat as hub_compat
from studio.recipe import yaml_loader
from studio.ui.gradio_compat import frontend, gate, page, protocol, uploads
from tests.contracts import ROOMS, broken, found_at, place, said, samples

NAMED = [(name, why, room) for room in ROOMS for name, why in room.RELIES_ON.items()]
ASSETS = importlib.resources.files(frontend.PACKAGE)


@pytest.mark.parametrize(("name", "why", "room"), NAMED, ids=[name for name, _, _ in NAMED])
def test_what_is_relied_on_is_there(name: str, why: str, room: ModuleType) -> None:
    wrong = broken(name, why, place(room))
    assert not wrong, wrong


def test_what_is_gone_or_changed_is_said_in_a_sentence() -> None:
    where = place(page)
    version = importlib.metadata.version("gradio")
    for name in ("gradio.Blocks.call_handler(self)", "gradio.Blocks().call_handler", "gradio.Blocks.call_handler"):
        assert broken(name, "who asks would be lost", where) == (
            f"gradio {version}: Blocks.call_handler is gone: who asks would be lost (studio/ui/gradio_compat/page.py)"
        )
    assert broken("gradio.inner.Blocks", "it", where).startswith(f"gradio {version}: inner.Blocks is gone")
    changed = broken("gradio.Blocks.call_function(self, requests)", "it", where)
    assert (
        "Blocks.call_function takes (self, block_fn, " in changed and "no longer (self, requests) first: it" in changed
    )


def test_the_studio_takes_no_name_of_gradios() -> None:
    assert not hasattr(samples()["gradio.Blocks"], "asking"), "gr.Blocks has an `asking` of its own: rename Page's"


# What Gradio's files hold.


@cache
def scripts() -> str:
    folder = ASSETS / frontend.ASSETS
    return "\n".join(file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".js"))


@pytest.mark.parametrize(("pattern", "why"), frontend.TEXTS.items())
def test_the_frontend_still_says(pattern: str, why: str) -> None:
    wrong = said("gradio", f"no script of the frontend matches {pattern}", why, place(frontend))
    assert re.search(pattern, scripts()), wrong


@pytest.mark.parametrize(("pattern", "why"), frontend.PAGE.items())
def test_the_page_still_says(pattern: str, why: str) -> None:
    text = (ASSETS / frontend.INDEX).read_text(encoding="utf-8")
    assert re.search(pattern, text), said("gradio", f"its page does not match {pattern}", why, place(frontend))


def test_a_callback_of_the_loading_sign_is_one_that_early_js_knows() -> None:
    """static/early.js judges by the text of a callback, of less than 200 characters."""
    counts = re.findall(r"\(\(\)=>\{[^{}]{0,190}\}\)", scripts())
    known = [text for text in counts if re.search(r"performance\.now\(\)\s*-", text) and re.search("1e3|1000", text)]
    why = "a sign of loading that left the page would count frames for ever"
    assert known, said("gradio", "no short callback counts seconds", why, "static/early.js")


def test_gradios_own_files_are_where_they_are_served_from() -> None:
    why = "the page's own fonts and pictures would be missing"
    assert any((ASSETS / frontend.STATIC).iterdir()), said("gradio", f"{frontend.STATIC} is gone", why, place(frontend))


# Gradio's addresses.


def routes_of_gradio() -> dict[str, Any]:
    """Gradio's routes by their address, those of the routers in it too."""
    found, waiting = {}, list(samples()["gradio.routes.App"].routes)
    for route in waiting:
        if hasattr(route, "original_router"):
            waiting += route.original_router.routes
        elif hasattr(route, "path"):
            found[route.path] = route
    return found


@pytest.mark.parametrize(("address", "why"), protocol.ADDRESSES.items())
def test_gradio_has_the_addresses_that_security_hangs_on(address: str, why: str) -> None:
    assert address in routes_of_gradio(), said("gradio", f"it has no {address}", why, place(protocol))


def test_a_page_is_named_by_the_same_word_everywhere() -> None:
    why = "whose page a request comes from would not be known, and none would be refused"
    for path in ("queue/data", "heartbeat/{session_hash}"):
        takes = inspect.signature(routes_of_gradio()[protocol.API + path].endpoint).parameters
        assert protocol.SESSION in takes, said("gradio", f"{path} takes no {protocol.SESSION}", why, place(protocol))
    for path, query in (("queue/data", "session_hash=mine"), ("heartbeat/mine", "")):
        scope = {"path": protocol.API + path, "query_string": query.encode()}
        assert protocol.page_of(scope) == "mine"


# What Gradio does with what is sent to it.


class Door:
    """A mounted page with one event that takes a file, and what was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
        self.fetched: list[Any] = []
        self.read: list[str] = []
        as_it_is = gr.File.async_move_resource_to_block_cache

        async def taking(block: Any, path: Any) -> Any:
            self.fetched.append(path)
            return str(path) if "://" in str(path) else await as_it_is(block, path)

        monkeypatch.setattr(gr.File, "async_move_resource_to_block_cache", taking)
        with gr.Blocks() as blocks:
            box = gr.File()
            box.upload(self.take, box, None, api_name="take", queue=False)
        self.blocks = uploads.only_uploads(blocks) if closed else blocks
        self.client = TestClient(gr.mount_gradio_app(FastAPI(), self.blocks, path="/", show_error=True))

    def take(self, path: str) -> None:
        self.read.append(Path(path).read_text(encoding="utf-8"))

    def send(self, path: str) -> Any:
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self.client.post(f"{protocol.API}run/take", json={"data": [data]})

    def upload(self, text: str) -> str:
        answer = self.client.post(protocol.UPLOAD, files={"files": ("mine.txt", text.encode())})
        return str(answer.json()[0])


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    path = tmp_path / "secret.txt"
    path.write_text("secret", encoding="utf-8")
    return path


def test_an_event_reads_what_was_uploaded_and_no_other_file(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    door = Door(monkeypatch, closed=True)
    assert door.send(door.upload("mine")).status_code == 200 and door.read == ["mine"]
    answer = door.send(str(secret))
    why = "an event could have any file of this machine read"
    assert door.read == ["mine"], said("gradio", "Blocks.has_launched = True opens every path", why, place(uploads))
    assert answer.status_code != 200


def test_an_event_has_no_address_fetched(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    door = Door(monkeypatch, closed=True)
    answer = door.send("https://example.com/secret.txt")
    why = "an event could have any address fetched"
    what = "addresses no longer come by File.async_move_resource_to_block_cache"
    assert not door.fetched and not door.read, said("gradio", what, why, place(uploads))
    assert answer.status_code != 200 and "not addresses" in answer.text


def test_without_that_both_are_open(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    """Otherwise the two tests above would show nothing. When Gradio closes them itself, uploads.py may go."""
    door = Door(monkeypatch, closed=False)
    assert not door.blocks.has_launched
    door.send(str(secret))
    assert door.read == ["secret"]
    door.send("https://example.com/secret.txt")
    assert door.fetched[-1] == "https://example.com/secret.txt"


def test_every_handler_and_every_step_is_done_for_who_asks() -> None:
    asked: list[str] = []
    within: list[str] = []
    told: list[Any] = []

    @contextlib.contextmanager
    def asking(scope: Mapping[str, Any], name: str) -> Iterator[None]:
        asked.append(scope["path"])
        within.append(name)
        yield
        within.pop()

    def once() -> str:
        told.append(list(within))
        return "once"

    def bit_by_bit() -> Iterator[str]:
        for text in ("one", "two"):
            told.append(list(within))
            yield text

    with page.Page() as blocks:
        box = gr.Textbox()
        for handler in (once, bit_by_bit):
            gr.Button().click(handler, None, box, api_name=handler.__name__)
    blocks.asking = asking
    with TestClient(gr.mount_gradio_app(FastAPI(), blocks, path="/")) as client:
        for handler in ("once", "bit_by_bit"):
            run(client, blocks, handler)
    why = page.RELIES_ON["gradio.Request().request"]
    assert told == [["mine"]] * 3, said(
        "gradio", "a handler is called otherwise than by call_function", why, place(page)
    )
    assert set(asked) == {f"{protocol.API}queue/join"}


def run(client: TestClient, blocks: gr.Blocks, name: str) -> None:
    """An event by the queue, as a page sends it, to its end."""
    number = next(number for number, function in blocks.fns.items() if function.api_name == name)
    event = {"data": [], "fn_index": number, "session_hash": "mine"}
    assert client.post(f"{protocol.API}queue/join", json=event).status_code == 200
    with client.stream("GET", f"{protocol.API}queue/data?session_hash=mine") as stream:
        lines = [line for line in stream.iter_lines() if "process_completed" in line]
    assert lines and '"success":true' in lines[0].replace(" ", "")


def test_no_page_is_told_to_keep_a_connection() -> None:
    with page.Page() as blocks:
        gr.State()
    why = "each page would keep a connection for Gradio's heartbeat"
    usual = gr.Blocks.get_config_file(blocks)
    assert usual["connect_heartbeat"] is True, said("gradio", "connect_heartbeat asks nothing", why, place(page))
    assert blocks.get_config_file()["connect_heartbeat"] is False


def test_events_that_show_no_progress_tell_it_to_one_component() -> None:
    with page.Page() as blocks:
        nowhere, box = gr.HTML(), gr.Textbox()
        box.submit(lambda text: text, box, box, show_progress="hidden")
    page.calm(blocks, nowhere)
    (event,) = blocks.get_config_file()["dependencies"]
    why = page.RELIES_ON["gradio.blocks.BlockFunction().show_progress_on"]
    what = "show_progress_on set after an event was made is not told to the page"
    assert event["show_progress_on"] == [nowhere._id], said("gradio", what, why, place(page))


def test_an_unknown_event_is_not_there() -> None:
    with gr.Blocks() as blocks:
        gr.Textbox()
    app = gate.restrict(gr.mount_gradio_app(FastAPI(), blocks, path="/"), gate.Policy(frozenset({"testserver"})))
    answer = TestClient(app, raise_server_exceptions=False).post(f"{protocol.API}run/nothing", json={"data": []})
    why = gate.RELIES_ON["gradio.route_utils.get_fn"]
    assert answer.status_code == 404, said("gradio", "get_fn is not where events are looked for", why, place(gate))


# The other libraries.


def test_a_template_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = sandbox.BoundedEnvironment()
    monkeypatch.setattr(sandbox, "STEPS", 3)
    monkeypatch.setattr(sandbox, "LONGEST", 50)
    bounded.begin()
    loops: Callable[..., str] = bounded.from_string("{% for one in many %}{% endfor %}").render
    with pytest.raises(sandbox.TemplateTooLarge, match="steps"):
        loops(many=range(4))
    bounded.begin()
    with pytest.raises(sandbox.TemplateTooLarge, match="characters"):
        bounded.from_string("{{ text }}{{ text }}").render(text="x" * 30)
    assert jinja2.Environment().from_string("{{ text }}{{ text }}").render(text="x" * 30) == "x" * 60


def test_the_hubs_connection_errors_are_its_http_librarys() -> None:
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError

    base = hub_compat.connection_errors()[0]
    library = importlib.import_module(base.__module__.partition(".")[0])
    why = hub_compat.RELIES_ON["huggingface_hub.errors.HTTPError"]
    what = "errors.HTTPError is not what its connections fail with"
    right = isinstance(get_session(), library.Client) and issubclass(library.ConnectError, base)
    assert right and issubclass(HfHubHTTPError, base), said("huggingface_hub", what, why, place(hub_compat))


def test_a_recipe_holds_no_references() -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        yaml_loader.read("one: &it [1]\ntwo: *it\n")
    assert yaml_loader.line_of(caught.value) == 2


def test_an_event_of_tensorboards_has_what_is_filled_in() -> None:
    event = found_at("tensorboard.compat.proto.event_pb2.Event")(wall_time=1.0, step=2)
    event.summary.value.add(tag="train/loss").simple_value = 0.5
    again = type(event).FromString(event.SerializeToString())
    assert (again.step, again.summary.value[0].tag, again.summary.value[0].simple_value) == (2, "train/loss", 0.5)
