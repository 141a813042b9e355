"""Two people of one studio: what one of them sends to every door, to reach what is the other's.

Two thousand words: Ann's true ids and the files behind them, bare, dressed up, climbed to from wherever a door might
look, and the traversals of payloads.py. Ben, who is signed in and owns one of everything too, sends

- all of them in the path of every route that takes something from its path, ours and Gradio's, in six encodings;
- all of them in the queries and bodies of ours that name a thing: the filters of the list of runs get a sixth each, and
  the pulse, which draws half the page for an answer, gets an eighth;
- `OF_CALLS` of them to each place for a text in the API, by HTTP, and `OF_EVENTS` to each event of the page, straight
  into its function, past what Gradio would refuse for it: others to each, so that every word comes to some of both;
- all of them once to the events by HTTP, as a page sends them, over the events in turn.
"""

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from studio.errors import StudioError
from studio.services.core.identity import Visitor
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.ui.web.auth import VisitorSessions
from studio.ui.web.server import make_app
from tests.belongings import Things, make
from tests.payloads import ENCODINGS, encoded, words
from tests.security.conftest import told
from tests.security.test_endpoints import blocks_of, handler, routes_of
from tests.security.test_payloads import FIELDS, HERE, LEAKS, _apart, asked
from tests.security.watch import watched
from tests.unit.services.core.test_matrix import given_to, request_of

ANN, BEN = Visitor("account-1", "ann"), Visitor("account-7", "ben")
MARK, HIS = "zebrafinch", "osprey"
MANY, OF_CALLS, OF_EVENTS = 2000, 160, 25
FORMS = {"comparison": "html", "evaluation": "json", "rejects": "csv", "reproduce": "py"}
PULSE = "/pulse?tab=runs&run=VALUE&beside=VALUE&curve=VALUE@0"
Sent = tuple[str, str, bytes]


@dataclass(frozen=True)
class Two:
    """A studio that both use. values: the words as they are; paths: as they stand in a request's path."""

    studio: Studio
    app: FastAPI
    hers: Things
    his: Things
    values: list[str]
    paths: list[str]

    def headers(self, who: Visitor) -> list[tuple[bytes, bytes]]:
        cookie = VisitorSessions(self.studio, "hosted").cookie(who, Headers({})).partition(";")[0]
        return [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"cookie", cookie.encode())]

    def leaks(self, word: str, answer: str) -> set[str]:
        """What of Ann's an answer tells: her mark, where she is kept, or an id that was not in the word."""
        known, ids = unquote(unquote(word)), {key.partition("@")[0] for key in self.hers.ids.values()}
        return {told for told in (MARK, ANN.owner, *ids) if told in answer and told not in known}


@pytest.fixture
def two(nothing_starts: None, keeper: Keeper, ready: Studio, tmp_path: Path) -> Iterator[Two]:
    none = dict.fromkeys(("queue_most", "quota_running", "quota_queued", "quota_storage_gb", "quota_starts_day",
                          "quota_chat_tokens_day", "requests_per_second"), 0)  # fmt: skip
    # Without limits, so that nothing is refused for another reason than whose it is.
    ready.settings = ready.settings.model_copy(update={"hosted": True, "hosted_models": "tiny", **none})
    ready.open_to_visitors()
    hers, his = make(ready, ANN, MARK, tmp_path / "ann"), make(ready, BEN, HIS, tmp_path / "ben")
    app = make_app(ready, "hosted")
    every = list(dict.fromkeys(reaching(ready.settings.home, hers)))
    ids = [key for key in hers.ids.values() if key in every]
    plain = list(dict.fromkeys(spelled(word) for spelled in ENCODINGS for word in ids))
    paths = list(dict.fromkeys([*plain, *encoded(every, MANY)]))[:MANY]
    (tmp_path / "outside.txt").write_text("outside-the-home")
    keeper.start()  # as it is served: no request looks through the runs itself
    yield Two(ready, app, hers, his, every[:MANY], paths)
    ready.for_visitors = False


def reaching(home: Path, hers: Things) -> Iterator[str]:
    """Her ids and dressed-up ids, then her files, then traversals to them and to what lies outside."""
    bare = [key for key in hers.ids.values() if MARK not in key]
    yield from bare
    for key in bare:
        yield from (f"{key}/", f"./{key}", f"x/../{key}", f" {key} ", f"{key}\x00", f"{key}.json", f"{key}@2", key[:-1],
                    f"base,{key}", f"{key},{key}", f'["{key}"]', f"{key[:-1]}*", f"{key[:-1]}_", key.upper(),
                    f"{key}%00", f"../{key}", f"{key}/..", f"{key}' OR '1'='1", f"{key}?", f"{key}#")  # fmt: skip
    files = [path.relative_to(home) for path in sorted(home.rglob("*")) if is_hers(path, home, hers)]
    named = [path.as_posix() for path in files if MARK not in path.name]
    for path in named:
        yield from (path, f"{home}/{path}", f"file://{home}/{path}", f"../{path}", f"../../{path}")
    rooms = ("runs", "exports", "adapters", "prompts", "evaluations", "comparisons", "datasets")
    some = [next(path for path in named if path.startswith(room)) for room in rooms]
    yield from words([*some, "../outside.txt", "outside.txt", "studio.db", "cookie.secret", "etc/passwd"])


def is_hers(path: Path, home: Path, hers: Things) -> bool:
    inside = path.relative_to(home).as_posix()
    return path.is_file() and any(key.partition("@")[0] in inside for key in hers.ids.values())


def kept(home: Path, hers: Things) -> dict[str, bytes]:
    """Her files by their path, and all others that hold her mark; and databases that were given up."""
    index = ("studio.db", "cache/")
    found = {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    return {str(path): b"" for path in home.glob("studio.db.damaged-*")} | {
        str(path): content for path, content in found.items()
        if (is_hers(path, home, hers) or MARK.encode() in content)
        and not path.relative_to(home).as_posix().startswith(index)
    }  # fmt: skip


def outside(folder: Path) -> set[Path]:
    """What there is beside the home."""
    return {path for path in folder.rglob("*") if not path.is_relative_to(folder / "home")}


def doors(two: Two) -> list[Sent]:
    """Method, path and body of every route with a parameter. WORD stands where the word does, VALUE where it does in a
    query; FIELD for those of the list's filters, each in its turn."""
    found: dict[Sent, None] = {}
    for method, path in routes_of(two.app):
        if "{" not in path:
            continue
        body = told({"name": "taken"} if path.startswith("/runs/") else {"data": ["WORD"]}) if method == "POST" else b""
        found[method, re.sub(r"\{[^}]*\}", "WORD", path), body] = None
        if path.endswith(".{form}"):
            form = FORMS[path.split("/")[1]]
            found[method, re.sub(r"\{[^}]*\}", "WORD", path.replace("{form}", form)), body] = None
    hers, his, own = two.hers.ids["export"], two.his.ids["export"], two.his.ids["run"]
    more = ("/download/WORD/model.safetensors", f"/download/{his}/WORD", f"/download/{hers}/WORD", "/WORD",
            f"/curves?run={own}&run=VALUE", "/runs.json?FIELD=VALUE", PULSE)  # fmt: skip
    found |= dict.fromkeys(("GET", path, b"") for path in more)
    return [*found, ("POST", "/trash", told({"runs": ["WORD"]}))]


def test_no_route_tells_or_changes_what_is_anothers(two: Two, tmp_path: Path) -> None:
    home = two.studio.settings.home
    assert len(set(two.values)) == len(set(two.paths)) == MANY
    every = doors(two)
    before, beside, bad, count = kept(home, two.hers), outside(tmp_path), [], 0
    telling: set[str] = set()

    async def all_of_them() -> None:
        nonlocal count
        headers = two.headers(BEN)
        for place, (value, spelled) in enumerate(zip(two.values, two.paths, strict=True)):
            for method, path, body in every:
                sent = body.replace(b'"WORD"', told(value))
                if path.startswith("/pulse") and place % 8:
                    continue
                filled = path.replace("WORD", spelled).replace("FIELD", FIELDS[place % len(FIELDS)])
                filled = filled.replace("VALUE", quote(value, safe="", errors="surrogatepass"))
                status, answer = await asked(two.app, method, filled, headers, sent)
                count += 1
                said = answer.decode("utf-8", "replace")
                leaked = two.leaks(f"{filled} {value}", said)
                if status >= 500 or LEAKS.search(answer) or leaked:
                    bad.append(f"{method} {filled[:200]} {status} {leaked} {said[:200]}")

    async def by_ann() -> None:
        """She is told by the same doors: otherwise this would see no leak."""
        for method, path, _ in every:
            for key in two.hers.ids.values() if method == "GET" else ():
                word = quote(key, safe="")
                filled = path.replace("WORD", word).replace("VALUE", word).replace("FIELD", "search")
                if MARK.encode() in (await asked(two.app, method, filled, two.headers(ANN), b""))[1]:
                    telling.add(path)

    with watched() as seen:
        _apart(all_of_them())
    _apart(by_ann())
    print(f"\n{len(every)} routes x {MANY:,} words = {count:,} requests, {len(bad)} leaks or faults")
    assert not bad, bad[:10]
    assert count == (len(every) - 1) * MANY + len(range(0, MANY, 8)) and len(every) > 40
    assert len(telling) > 5, telling
    assert kept(home, two.hers) == before and outside(tmp_path) == beside
    assert not seen.beyond(home, *HERE), sorted(seen.beyond(home, *HERE))[:10]
    assert not seen.asked and not seen.started


def calls(two: Two) -> list[tuple[str, Callable[[str], list[Any]]]]:
    """Each endpoint of the API, with where the word stands among its values: wherever a text names something. `check`
    takes rows, of which none does."""
    own, recipe = two.his.ids["run"], {"model": "tiny", "dataset": two.his.ids["dataset"], "name": "mine"}
    return [
        ("run", lambda word: [word]),
        ("stop", lambda word: [word]),
        ("export", lambda word: [word, "adapter", "Q8_0"]),
        ("export", lambda word: [f"{own}@{word}", "merged", "Q8_0"]),
        ("chat", lambda word: [word, "Who are you?", "base", "", 4, 0]),
        ("chat", lambda word: [own, "Who are you?", word, "", 4, 0]),
        ("add_dataset", lambda word: [word, "mine"]),
        *((name, lambda word, field=field: [recipe | {field: word}])
          for name in ("estimate", "train") for field in ("dataset", "model", "preset")),
    ]  # fmt: skip


def test_no_endpoint_of_the_api_tells_or_changes_what_is_anothers(
    two: Two, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = two.studio.settings.home
    before, beside, bad, done = kept(home, two.hers), outside(tmp_path), [], dict[str, int]()
    used: set[str] = set()

    async def ask(who: Visitor, name: str, data: list[Any]) -> tuple[int, str]:
        sent = told({"data": data, "session_hash": f"api of {who.name}"})
        status, answer = await asked(two.app, "POST", f"/gradio_api/run/{name}", two.headers(who), sent)
        return status, answer.decode()

    async def all_of_them() -> None:
        turn = itertools.cycle(two.values)
        for name, values in calls(two):
            for value in itertools.islice(turn, OF_CALLS):
                data = values(value)
                used.add(value)
                status, said = await ask(BEN, name, data)
                done[name] = done.get(name, 0) + 1
                # 500 is how Gradio answers what is refused; the sentence is in it, and nothing in the log.
                refused = status == 500 and set(json.loads(said)) >= {"error"}
                if not (refused or status == 200) or two.leaks(value, said):
                    bad.append(f"{name} {data} {status} {said[:200]}")
        lists = ("datasets", "models", "runs", "exports")
        # Half of a character is no text, so no row either; the file would be refused for it.
        rows = [{"instruction": value, "output": value} for value in two.values if "\ud800" not in value]
        for name, data in [("check", [rows, None]), *((name, []) for name in lists)]:
            status, said = await ask(BEN, name, data)
            assert status == 200 and MARK not in said, (name, status, said[:300])
        # She is told by the same calls.
        for name, data in [("run", [two.hers.ids["run"]]), *((name, []) for name in lists if name != "models")]:
            assert MARK in (await ask(ANN, name, data))[1], name

    _apart(all_of_them())
    shown = capfd.readouterr()
    print(f"\n{done} calls, {len(bad)} leaks or faults")
    assert not bad, bad[:10]
    assert used == set(two.values), "every word comes to some endpoint"
    assert "Traceback" not in shown.err, shown.err[-3000:]
    assert kept(home, two.hers) == before and outside(tmp_path) == beside


@dataclass
class Heard:
    """What an event answered; fault: where it fell over instead of refusing."""

    said: str = ""
    fault: str = ""


async def straight(page: Any, event: Any, value: str, who: Visitor) -> Heard:
    """The event's own function with the word in every place, past what Gradio looks at, step by step to its end."""
    names = ("open", "stop", "of", "ask", "beside", "cancel", "delete", "again", "id", "keep", "publish", "target",
             "typed", "go", "halt", "clear", "use", "reset")  # fmt: skip
    picked = gr.EventData(
        None, dict.fromkeys(names, value) | {"row": 1, "prompt": 0, "offset": 0, "vote": "1", "kind": ""}
    )
    heard, steps = Heard(), None
    given = [given_to(part, value) for part in event.inputs]
    try:
        for _ in range(60):
            result = await page.call_function(
                event, list(given), steps, request_of(who, who.name), event_data=picked, in_event_listener=True
            )
            prediction, steps = result["prediction"], result.get("iterator")
            if type(prediction).__name__ in ("FINISHED", "_Keywords"):
                break
            heard.said += repr(prediction)
            if not result.get("is_generating"):
                break
    except (StudioError, gr.Error) as error:
        heard.said += f" refused: {error}"
    except Exception as error:
        heard.said, heard.fault = f"{heard.said} {error}", f"{handler(event.fn)} {value[:80]!r}: {error!r}"
    return heard


def test_no_event_tells_or_changes_what_is_anothers(two: Two, tmp_path: Path) -> None:
    home, page = two.studio.settings.home, blocks_of(two.app)
    events = [event for event in page.fns.values() if event.fn and handler(event.fn)[0] != "api"]
    assert len(events) > 80
    before, beside, count, leaks, faults = kept(home, two.hers), outside(tmp_path), 0, [], []
    turn, used = itertools.cycle(two.values), set[str]()
    called = " ".join(two.hers.ids.values())  # Ben may have called things of his by them meanwhile

    async def all_of_them() -> None:
        nonlocal count
        for event in events:
            for value in itertools.islice(turn, OF_EVENTS):
                used.add(value)
                heard = await straight(page, event, value, BEN)
                count += 1
                if leaked := two.leaks(called, heard.said):
                    leaks.append(f"{handler(event.fn)} {value!r}: {leaked} in {heard.said[:300]}")
                # What comes with an upload has one: those are tried in test_payloads.py.
                if heard.fault and not any(isinstance(part, gr.File | gr.UploadButton) for part in event.inputs):
                    faults.append(heard.fault)
        by_http = [(number, event) for number, event in page.fns.items() if event in events]
        for value, (number, event) in zip(two.values, itertools.cycle(by_http), strict=False):
            given = [as_sent(part, value) for part in event.inputs]
            sent = told({"data": given, "fn_index": number, "session_hash": "ben", "event_data": {"open": value}})
            status, answer = await asked(two.app, "POST", "/gradio_api/run/predict", two.headers(BEN), sent)
            said = answer.decode("utf-8", "replace")
            count += 1
            if two.leaks(called, said) or LEAKS.search(answer) or "Traceback" in said:
                leaks.append(f"{handler(event.fn)} {value!r}: {status} {said[:300]}")

    async def by_ann() -> int:
        """How many events tell her of what is hers, and change it: otherwise this would see no leak."""
        return sum([MARK in (await straight(page, event, two.hers.ids["run"], ANN)).said for event in events])

    with watched() as seen:
        _apart(all_of_them())
    print(f"\n{len(events)} events x {OF_EVENTS} words and {MANY:,} by HTTP = {count:,}, {len(leaks)} leaks")
    assert used == set(two.values), "every word comes to some event"
    assert not leaks, leaks[:10]
    assert not faults, faults[:10]
    assert kept(home, two.hers) == before and outside(tmp_path) == beside
    assert not {path for path in seen.beyond(home, *HERE) if path.startswith((str(tmp_path), "/etc", "/root"))}
    with ThreadPoolExecutor(1) as apart:
        assert apart.submit(asyncio.run, by_ann()).result() > 5


def as_sent(part: Any, value: str) -> Any:
    """The word for a component as JSON; the studio's own state is not the page's to send."""
    return None if isinstance(part, gr.State | gr.File | gr.UploadButton | gr.Timer) else given_to(part, value)
