"""Many people at once on a shared studio, beside a training: errors, mixed-up answers, waiting times, memory.

    python -m benchmarks.load [--people 50] [--minutes 10] [--floods]

Serves a hosted studio on loopback with the tiny model of the tests. One person's run is being trained; everyone has the
page's pulse, looks at the list, has examples checked and kept, and asks an adapter of their own. Everything a person
makes carries their mark: an answer with another's mark in it is cross-talk. `--floods`: in the last third of the time
somebody opens slow connections, uploads more than may be, and starts more than may wait. Talks to loopback only, with
at most 200 people, for at most an hour, and with at most one question of a kind at a time for each person.
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
PULSE = (1.7, 3.0)  # seconds between two questions, as the page asks them
EVERY = {"list": 10.0, "check": 30.0, "chat": 60.0}  # seconds between two of a person's
# The server lets go of connections that were idle for 5 s; a browser would ask again where that crosses a question.
LIMITS = httpx.Limits(keepalive_expiry=3)
PHASES = ("beside a training", "beside floods")
WHOLE = 120.0  # seconds that anything may take


@dataclass
class Seen:
    """What became of the questions."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)  # sentences by which the studio said no
    mixed: list[str] = field(default_factory=list)

    def say(self, name: str) -> None:
        for kind, times in sorted(self.times.items()):
            cuts = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
            print(f"{name}, {kind}: {len(times)}, median {statistics.median(times):.3f} s, 95th percentile "
                  f"{cuts[18]:.3f} s, longest {max(times):.3f} s")  # fmt: skip
        print(f"{name}: errors {dict(self.errors)}, cross-talk {len(self.mixed)}, refused {dict(self.told)}")


class Person:
    """One page: its cookie, its mark, its run."""

    def __init__(self, number: int, cookie: str, run: str, url: str) -> None:
        self.mark, self.run = f"mark{number:03}", run
        self.number = number
        self.client = httpx.AsyncClient(base_url=url, cookies={COOKIE: cookie}, timeout=WHOLE, limits=LIMITS)
        self.answer = ""

    async def look(self, seen: Seen, kind: str, path: str, **query: str) -> None:
        began = time.perf_counter()
        answer = await self.client.get(path, params=query)
        self.note(seen, kind, time.perf_counter() - began, answer.status_code in (200, 204), answer.text)

    async def call(self, seen: Seen, kind: str, *values: object) -> dict[str, object] | None:
        """A call of the public API, as Gradio's clients make it."""
        began = time.perf_counter()
        asked = await self.client.post(f"/gradio_api/call/{kind}", json={"data": list(values)})
        if asked.status_code != 200:
            self.note(seen, kind, time.perf_counter() - began, False, asked.text)
            return None
        answer = await self.client.get(f"/gradio_api/call/{kind}/{asked.json()['event_id']}")
        event, _, data = answer.text.strip().rpartition("event: ")[2].partition("\ndata: ")
        fine = event == "complete"
        told = json.loads(data) if data else None
        if not fine and isinstance(told, dict) and told.get("error"):
            seen.told[str(told["error"])[:90]] += 1
            return None
        self.note(seen, kind, time.perf_counter() - began, fine, answer.text)
        return dict(told[0]) if fine and isinstance(told[0], dict) else None

    def note(self, seen: Seen, kind: str, seconds: float, fine: bool, text: str) -> None:
        seen.times[kind].append(seconds)
        if not fine:
            seen.errors[f"{kind}: {text[:80]}"] += 1
        others = {found for found in MARK.findall(text) if f"mark{found}" != self.mark}
        if others:
            seen.mixed.append(f"{self.mark} was told of {others} by {kind}")

    async def pulse(self, seen: Seen) -> None:
        await self.look(seen, "pulse", "/pulse", tab="runs", run=self.run, have="now:?")

    async def list(self, seen: Seen) -> None:
        await self.look(seen, "list", "/runs.json", limit="50")

    async def check(self, seen: Seen) -> None:
        rows = [{"instruction": f"{self.mark} asks {n}", "input": "", "output": f"{self.mark} {n}"} for n in range(20)]
        checked = await self.call(seen, "check", rows, None)
        if checked and checked["ok"] != 20:
            seen.errors["check: other rows than were sent"] += 1
        await self.call(seen, "datasets")

    async def chat(self, seen: Seen) -> None:
        told = await self.call(seen, "chat", self.run, f"{self.mark} asks", "base", "", 4, 0.0)
        if not told:
            return
        words = json.dumps([side["text"] for side in told["answers"]])  # type: ignore[index,attr-defined]
        if self.answer and words != self.answer:
            seen.mixed.append(f"{self.mark} was given another answer than before")
        self.answer = words


async def again(
    act: Callable[[Seen], Awaitable[None]], seen: list[Seen], between: tuple[float, float], end: float
) -> None:
    """`act` now and then until the end; what it meets is noted with the newest of `seen`."""
    await asyncio.sleep(random.uniform(0, between[1]))
    while time.monotonic() < end:
        now = seen[-1]
        try:
            await act(now)
        except httpx.HTTPError as error:
            now.errors[f"{act.__name__}: {error!r}"[:100]] += 1
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
    grown = asyncio.create_task(resident(studio, seen, end))
    if floods:
        tasks.append(flood(url, seen, 60 * minutes * 2 / 3, end))
    await asyncio.gather(*tasks)
    for name, sizes in zip(PHASES, await grown, strict=False):
        print(f"{name}, the studio's memory: {sizes[0] / 2**20:.0f} MiB at first, {sizes[-1] / 2**20:.0f} at the end, "
              f"most {max(sizes) / 2**20:.0f}")  # fmt: skip
    for person in people:
        await person.client.aclose()
    return seen


async def resident(studio: psutil.Process, seen: list[Seen], end: float) -> list[list[int]]:
    """Its bytes every five seconds, in a list for each of what becomes of `seen`."""
    await asyncio.sleep(30)  # what the first questions load is not growth
    sizes: list[list[int]] = []
    while time.monotonic() < end:
        if len(sizes) < len(seen):
            sizes.append([])
        sizes[-1].append(studio.memory_info().rss)
        await asyncio.sleep(5)
    return sizes


async def flood(url: str, seen: list[Seen], after: float, end: float) -> None:
    """One who means no good, with a cookie of their own: what the others then meet goes into a new `Seen`."""
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
    """A home where each of `count` people has a run: the home, their cookies, their runs' ids."""
    home = folder / "home"
    # The cookies are signed as the served studio will read them.
    os.environ[SECRET] = os.urandom(32).hex()
    with Keeper(Settings(home=home, offline=True)) as studio:
        models.add(studio, str(tiny_model(folder / "tiny")), lambda *_: None)
        datasets.add(studio, write_jsonl(folder / "little.jsonl", little_rows()))
    served = serve(home)
    try:
        words = ("train", "--model", "tiny", "--dataset", "little", "--set", "max_steps=1", "--set", "dtype=float32")
        first = RunDir(home / "runs" / str(served.cli(*words)["id"]))
        while not first.exit.exists():
            time.sleep(0.2)
    finally:
        served.process.terminate()
        served.process.wait(30)
    cookies, runs = [], []
    with Keeper(Settings(home=home, offline=True, hosted=True)) as studio:
        desk = VisitorSessions(studio, "hosted")
        for number in range(count):
            visitor = desk.new()
            cookies.append(desk.cookie(visitor, httpx.Headers()).partition(";")[0].partition("=")[2])  # type: ignore[arg-type]
            copy = first.path.with_name(f"{first.path.name[:-6]}{number:06x}")
            shutil.copytree(first.path, copy)
            about = json.loads((copy / "about.json").read_text())
            (copy / "about.json").write_text(json.dumps(about | {"owner": visitor.owner, "name": f"mark{number:03}"}))
            runs.append(copy.name)
    return home, cookies, runs


def trainer(served: Served) -> RunDir:
    """A run of the studio's own that lasts."""
    words = [f"--set={one}" for one in ("max_steps=100000", "dtype=float32", "eval_steps=0", "save_steps=0")]
    told = served.cli("train", "--model", "tiny", "--dataset", "little", *words)
    run = RunDir(served.home / "runs" / str(told["id"]))
    while not any(event.kind == "metric" for event in read_events(run.events).events):
        time.sleep(0.5)
    return run


def wished(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for on the command line; anything without bound ends the program with a sentence."""
    parser = argparse.ArgumentParser(description="Many people beside a training.")
    parser.add_argument("--people", type=int, default=50, help=f"1 to {MOST_PEOPLE}")
    parser.add_argument("--minutes", type=float, default=10, help=f"above 0, up to {MOST_MINUTES}")
    parser.add_argument("--floods", action="store_true")
    asked = parser.parse_args(words)
    if not 0 < asked.people <= MOST_PEOPLE:
        parser.error(f"--people is a number from 1 to {MOST_PEOPLE}, not {asked.people}.")
    if not 0 < asked.minutes <= MOST_MINUTES:
        parser.error(f"--minutes is a number above 0 and up to {MOST_MINUTES}, not {asked.minutes:g}.")
    return asked


def main() -> None:
    asked = wished()
    with tempfile.TemporaryDirectory() as folder:
        home, cookies, runs = made(Path(folder), asked.people)
        os.environ["STUDIO_HOSTED"] = "1"
        os.environ["STUDIO_HOSTED_MODELS"] = "tiny"
        served = serve(home)
        try:
            run = trainer(served)
            people = [Person(n, cookie, runs[n], served.url) for n, cookie in enumerate(cookies)]
            studio = psutil.Process(served.process.pid)
            began = time.time()
            seen = asyncio.run(everyone(people, asked.minutes, asked.floods, served.url, studio))
            for name, one in zip(PHASES, seen, strict=False):
                one.say(name)
                for words in one.mixed[:5]:
                    print("  ", words)
            steps = [event.time for event in read_events(run.events).events if event.kind == "metric"]
            since = [at for at in steps if at > began]
            print(f"trained meanwhile: {len(since)} steps, still at work: {not run.exit.exists()}")
            run.ask("stop")
            while not run.exit.exists():
                time.sleep(0.5)
        finally:
            served.process.terminate()
            served.process.wait(60)


if __name__ == "__main__":
    main()
