"""Load a shared studio with many people while a run trains: errors, mixed-up answers, waiting times, memory.

    python -m benchmarks.load [--people 50] [--minutes 10] [--floods]

Serves a hosted studio on loopback with the tiny model of the tests. One run is training; every person requests the
page's pulse and the list of runs, has examples checked and stored, and asks an adapter of their own. Everything that a
person creates contains their mark: an answer with another person's mark is cross-talk. `--floods`: in the last third of
the time one client opens slow connections, uploads more than allowed, and starts more runs than may wait. It connects
to loopback only, with at most 200 people, for at most an hour, and with at most one request of each kind at a time per
person.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from studio.rundir import RunDir, read_events
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.services.models import models
from studio.settings import Settings
from studio.ui.web.auth import COOKIE, SECRET, VisitorSessions
from tests.conftest import little_rows, write_jsonl
from tests.e2e.conftest import Served, serve
from tests.tiny import tiny_model

MARK = re.compile(r"\bmark(\d{3})\b")
MOST_PEOPLE, MOST_MINUTES = 200, 60
PULSE = (1.7, 3.0)  # seconds between two pulses, as on the page
EVERY = {"list": 10.0, "check": 30.0, "chat": 60.0}  # seconds between two requests of a person
# The server closes connections after 5 s of idling; a browser would retry if a request crosses that.
LIMITS = httpx.Limits(keepalive_expiry=3)
PHASES = ("during a training", "during floods")
WHOLE = 120.0  # timeout of a request, seconds


@dataclass
class Seen:
    """Counters of one phase: times, errors, refusals and cross-talk."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)  # messages of refusals
    mixed: list[str] = field(default_factory=list)

    def say(self, name: str) -> None:
        for kind, times in sorted(self.times.items()):
            cuts = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
            print(f"{name}, {kind}: {len(times)}, median {statistics.median(times):.3f} s, 95th percentile "
                  f"{cuts[18]:.3f} s, longest {max(times):.3f} s")  # fmt: skip
        print(f"{name}: errors {dict(self.errors)}, cross-talk {len(self.mixed)}, refused {dict(self.refusals)}")


class Person:
    """One visitor with an open page: cookie, mark and run."""

    def __init__(self, number: int, cookie: str, run: str, url: str) -> None:
        self.mark, self.run = f"mark{number:03}", run
        self.number = number
        self.client = httpx.AsyncClient(base_url=url, cookies={COOKIE: cookie}, timeout=WHOLE, limits=LIMITS)
        self.answer = ""

    async def look(self, seen: Seen, kind: str, path: str, **query: str) -> None:
        start = time.perf_counter()
        response = await self.client.get(path, params=query)
        self.note(seen, kind, time.perf_counter() - start, response.status_code in (200, 204), response.text)

    async def call(self, seen: Seen, kind: str, *values: object) -> dict[str, object] | None:
        """Call the public API as Gradio's clients do; return the answer, or None if it was refused or failed."""
        start = time.perf_counter()
        posted = await self.client.post(f"/gradio_api/call/{kind}", json={"data": list(values)})
        if posted.status_code != 200:
            self.note(seen, kind, time.perf_counter() - start, False, posted.text)
            return None
        stream = await self.client.get(f"/gradio_api/call/{kind}/{posted.json()['event_id']}")
        event, _, data = stream.text.strip().rpartition("event: ")[2].partition("\ndata: ")
        complete = event == "complete"
        payload = json.loads(data) if data else None
        if not complete and isinstance(payload, dict) and payload.get("error"):
            seen.refusals[str(payload["error"])[:90]] += 1
            return None
        self.note(seen, kind, time.perf_counter() - start, complete, stream.text)
        return dict(payload[0]) if complete and isinstance(payload[0], dict) else None

    def note(self, seen: Seen, kind: str, seconds: float, fine: bool, text: str) -> None:
        seen.times[kind].append(seconds)
        if not fine:
            seen.errors[f"{kind}: {text[:80]}"] += 1
        other_marks = {mark for mark in MARK.findall(text) if f"mark{mark}" != self.mark}
        if other_marks:
            seen.mixed.append(f"{self.mark} received {other_marks} from {kind}")

    async def pulse(self, seen: Seen) -> None:
        await self.look(seen, "pulse", "/pulse", tab="runs", run=self.run, have="now:?")

    async def list(self, seen: Seen) -> None:
        await self.look(seen, "list", "/runs.json", limit="50")

    async def check(self, seen: Seen) -> None:
        rows = [{"instruction": f"{self.mark} asks {n}", "input": "", "output": f"{self.mark} {n}"} for n in range(20)]
        checked = await self.call(seen, "check", rows, None)
        if checked and checked["ok"] != 20:
            seen.errors["check: rows differ from those sent"] += 1
        await self.call(seen, "datasets")

    async def chat(self, seen: Seen) -> None:
        answer = await self.call(seen, "chat", self.run, f"{self.mark} asks", "base", "", 4, 0.0)
        if not answer:
            return
        texts = json.dumps([side["text"] for side in answer["answers"]])  # type: ignore[index,attr-defined]
        if self.answer and texts != self.answer:
            seen.mixed.append(f"{self.mark} received a different answer than before")
        self.answer = texts


async def again(
    act: Callable[[Seen], Awaitable[None]], seen: list[Seen], between: tuple[float, float], end: float
) -> None:
    """Repeat `act` at random intervals until the end; results are counted in the newest entry of `seen`."""
    await asyncio.sleep(random.uniform(0, between[1]))
    while time.monotonic() < end:
        phase = seen[-1]
        try:
            await act(phase)
        except httpx.HTTPError as error:
            phase.errors[f"{act.__name__}: {error!r}"[:100]] += 1
        await asyncio.sleep(random.uniform(*between))


async def everyone(people: list[Person], minutes: float, floods: bool, url: str, studio: psutil.Process) -> list[Seen]:
    end = time.monotonic() + 60 * minutes
    seen = [Seen()]
    tasks = []
    for person in people:
        tasks.append(again(person.pulse, seen, PULSE, end))
        for kind in ("list", "check", "chat"):
            every = EVERY[kind]
            tasks.append(again(getattr(person, kind), seen, (0.7 * every, 1.3 * every), end))
    memory = asyncio.create_task(resident(studio, seen, end))
    if floods:
        tasks.append(flood(url, seen, 60 * minutes * 2 / 3, end))
    await asyncio.gather(*tasks)
    for name, sizes in zip(PHASES, await memory, strict=False):
        print(f"{name}, the studio's memory: {sizes[0] / 2**20:.0f} MiB at first, {sizes[-1] / 2**20:.0f} at the end, "
              f"most {max(sizes) / 2**20:.0f}")  # fmt: skip
    for person in people:
        await person.client.aclose()
    return seen


async def resident(studio: psutil.Process, seen: list[Seen], end: float) -> list[list[int]]:
    """Sample the studio's resident bytes every five seconds, in one list per phase of `seen`."""
    await asyncio.sleep(30)  # memory for the first requests is not growth
    sizes: list[list[int]] = []
    while time.monotonic() < end:
        if len(sizes) < len(seen):
            sizes.append([])
        sizes[-1].append(studio.memory_info().rss)
        await asyncio.sleep(5)
    return sizes


async def flood(url: str, seen: list[Seen], after: float, end: float) -> None:
    """Flood the studio as a client with its own cookie; the others' requests are counted in a new `Seen`."""
    await asyncio.sleep(after)
    seen.append(Seen())
    host, port = urlsplit(url).hostname, urlsplit(url).port
    slow = [await asyncio.open_connection(host, port) for _ in range(100)]
    for _, writer in slow:
        writer.write(b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n")
    async with httpx.AsyncClient(base_url=url, timeout=WHOLE) as client:
        await client.get("/")
        big = b"x" * (16 * 2**20)
        answers: Counter[str] = Counter()

        async def bad(path: str, **body: object) -> None:
            try:
                answer = await client.post(path, **body)  # type: ignore[arg-type]
                answers[f"{path} {answer.status_code}"] += 1
            except httpx.HTTPError as error:
                answers[f"{path} {type(error).__name__}"] += 1

        while time.monotonic() < end:
            files = {"files": ("flood.jsonl", big)}
            starts = [bad("/gradio_api/call/train", json={"data": [{"model": "tiny"}]}) for _ in range(20)]
            await asyncio.gather(*(bad("/gradio_api/upload", files=files) for _ in range(4)), *starts)
            for _, writer in slow:
                if not writer.is_closing():
                    writer.write(b"X-Slow: 1\r\n")
            await asyncio.sleep(0.2)
        print(f"flood: {dict(answers)}")
    for _, writer in slow:
        writer.close()


def made(folder: Path, count: int) -> tuple[Path, list[str], list[str]]:
    """Create a home in which each of `count` people has a run; return home, cookies and run ids."""
    home = folder / "home"
    # The served studio reads this secret to verify the cookies.
    os.environ[SECRET] = os.urandom(32).hex()
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(tiny_model(folder / "tiny")), lambda *_: None)
        datasets.add(studio, write_jsonl(folder / "little.jsonl", little_rows()))
    served = serve(home)
    try:
        command = ("train", "--model", "tiny", "--dataset", "little", "--set", "max_steps=1", "--set", "dtype=float32")
        first = RunDir(home / "runs" / str(served.cli(*command)["id"]))
        while not first.exit.exists():
            time.sleep(0.2)
    finally:
        served.process.terminate()
        served.process.wait(30)
    cookies, runs = [], []
    with Keeper(Settings(home=home, offline=True, hosted=True)) as studio:
        sessions = VisitorSessions(studio, "hosted")
        for number in range(count):
            visitor = sessions.new()
            cookies.append(sessions.cookie(visitor, httpx.Headers()).partition(";")[0].partition("=")[2])  # type: ignore[arg-type]
            copy = first.path.with_name(f"{first.path.name[:-6]}{number:06x}")
            shutil.copytree(first.path, copy)
            about = json.loads((copy / "about.json").read_text())
            (copy / "about.json").write_text(json.dumps(about | {"owner": visitor.owner, "name": f"mark{number:03}"}))
            runs.append(copy.name)
    return home, cookies, runs


def trainer(served: Served) -> RunDir:
    """Start a long run and wait until it trains."""
    settings = [f"--set={setting}" for setting in ("max_steps=100000", "dtype=float32", "eval_steps=0", "save_steps=0")]
    started = served.cli("train", "--model", "tiny", "--dataset", "little", *settings)
    run = RunDir(served.home / "runs" / str(started["id"]))
    while not any(event.kind == "metric" for event in read_events(run.events).events):
        time.sleep(0.5)
    return run


def wished(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; values out of bounds end the program with a message."""
    parser = argparse.ArgumentParser(description="Load a shared studio while a run trains.")
    parser.add_argument("--people", type=int, default=50, help=f"1 to {MOST_PEOPLE}")
    parser.add_argument("--minutes", type=float, default=10, help=f"above 0, up to {MOST_MINUTES}")
    parser.add_argument("--floods", action="store_true")
    args = parser.parse_args(words)
    if not 0 < args.people <= MOST_PEOPLE:
        parser.error(f"--people is a number from 1 to {MOST_PEOPLE}, not {args.people}.")
    if not 0 < args.minutes <= MOST_MINUTES:
        parser.error(f"--minutes is a number above 0 and up to {MOST_MINUTES}, not {args.minutes:g}.")
    return args


def main() -> None:
    args = wished()
    with tempfile.TemporaryDirectory() as folder:
        home, cookies, runs = made(Path(folder), args.people)
        os.environ["STUDIO_HOSTED"] = "1"
        os.environ["STUDIO_HOSTED_MODELS"] = "tiny"
        served = serve(home)
        try:
            run = trainer(served)
            people = [Person(n, cookie, runs[n], served.url) for n, cookie in enumerate(cookies)]
            studio = psutil.Process(served.process.pid)
            start = time.time()
            seen = asyncio.run(everyone(people, args.minutes, args.floods, served.url, studio))
            for name, phase in zip(PHASES, seen, strict=False):
                phase.say(name)
                for text in phase.mixed[:5]:
                    print("  ", text)
            steps = [event.time for event in read_events(run.events).events if event.kind == "metric"]
            since = [at for at in steps if at > start]
            print(f"trained meanwhile: {len(since)} steps, still at work: {not run.exit.exists()}")
            run.ask("stop")
            while not run.exit.exists():
                time.sleep(0.5)
        finally:
            served.process.terminate()
            served.process.wait(60)


if __name__ == "__main__":
    main()
