"""Measure how fast the curves of long runs are served, compared with TensorBoard's reader of the same points.

    python -m benchmarks.curves [--points 100000] [--runs 8] [--rounds 3] [--peer PYTHON]

Creates a home with that many runs and training points, the first run with as many evaluations, and requests what a page
of 1100 px requests at once: one run's nine lines smoothed, over tokens (a tenth column), and all runs drawn together.
Ten series of one run are heavier to read than ten runs' losses; eight runs with all lines are heavier than both. Times
are of what the route does: reading, thinning, smoothing, JSON and gzip; the median of fifteen requests, and of seven
studios just started. Ingest is measured on a journal.

The peer gets the same ten columns of the first run, from the studio's own event file, and reads them with
EventAccumulator under PYTHON, all points and at its default of ten thousand per series; medians of the rounds. For a
million points on both sides use `--points 1000000 --runs 1`, which takes the peer many minutes.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from fastapi.testclient import TestClient

from studio.recipe import Recipe
from studio.rundir import Exit, Journal, RunDir, write_json
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.curves import curves, tensorboard
from studio.services.curves.curves import WindowRequest
from studio.settings import Settings
from studio.store import runs as rows
from studio.store.series import sync as series_sync
from studio.store.tables import Run
from studio.ui.runs.curves import encode, one
from studio.ui.web.server import make_app

PEER = """
import json, sys, time
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    sys.exit(f'not installed there: {error}')
began, worked = time.perf_counter(), time.process_time()
reader = EventAccumulator(sys.argv[1], size_guidance=json.loads(sys.argv[2]))
reader.Reload()
kept = [len(reader.Scalars(tag)) for tag in reader.Tags()['scalars']]
print(json.dumps([time.perf_counter() - began, time.process_time() - worked, len(kept), sum(kept)]))
"""
FIELDS = ("seq", "time", "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s",
          "step_seconds", "memory", "token_accuracy")  # fmt: skip
INSERT = f"INSERT INTO points (run, {', '.join(FIELDS)}) VALUES ({', '.join('?' * 14)})"


def run_dir(studio: Studio, name: str) -> RunDir:
    run = RunDir(studio.settings.runs / name)
    (run.path / "control").mkdir(parents=True)
    run.recipe.write_text(Recipe().with_values({"name": name, "dataset": "none"}).to_yaml())
    write_json(run.about, {"name": name, "owner": studio.owner, "created": 1000.0})
    write_json(run.dataset, {"id": "d" * 64, "name": "none"})
    return run


def fill(studio: Studio, name: str, count: int, every: int) -> None:
    """Write a finished run straight into the tables: `count` training points, an evaluation at each `every`-th."""
    run = run_dir(studio, name)
    run.events.touch()
    Exit("completed", "It ended.").write(run)
    studio.refresh()
    rng = np.random.default_rng(sum(name.encode()))
    seq = 0
    for start in range(0, count, 10_000):
        some: list[tuple[object, ...]] = []
        for step, (a, b, c, d, e) in enumerate(rng.random((min(10_000, count - start), 5)).tolist(), start + 1):
            level, now, epoch = 0.5 + 2 / (1 + step / 1e4), 1e9 + step, step / 1e4
            seq += 1
            some.append((name, seq, now, step, epoch, level + 0.3 * a, None, 1e-3 / step, b, step * 300, 900 + 100 * c,
                         0.3 + d, 2**30 + step, e))  # fmt: skip
            if step % every == 0:
                seq += 1
                some.append((name, seq, now, step, epoch, None, level + 0.1 * b, *[None] * 6, c))
        with studio.database.write() as session:
            session.connection().exec_driver_sql(INSERT, some)
        series_sync.catch_up(studio.database, name, seq)
    with studio.database.write() as session:
        session.get_one(Run, name).last_seq = seq


def timed(ask: Callable[[], object], times: int = 15) -> str:
    """Return the median milliseconds by the clock and of this thread's processor time, as text."""
    wall, own = [], []
    for _ in range(times):
        start, cpu_start = time.perf_counter(), time.thread_time()
        ask()
        own.append(time.thread_time() - cpu_start)
        wall.append(time.perf_counter() - start)
    return f"{1000 * statistics.median(wall):.0f} ms (own work {1000 * statistics.median(own):.0f})"


def ask(client: TestClient, runs: list[str], look: WindowRequest) -> tuple[int, int]:
    """Make one request as the page does; return bytes sent and bytes of JSON."""
    edges = {name: value for name, value in (("low", look.low), ("high", look.high)) if value is not None}
    params = {"run": runs, "x": look.x, "width": look.width, "weight": look.weight, **edges}
    with client.stream("GET", "/curves", params=params) as answer:
        assert answer.status_code == 200, answer.status_code
        sent = sum(map(len, answer.iter_raw()))
    return sent, len(client.get("/curves", params=params).content) if sent else 0


def served(client: TestClient, runs: list[str], look: WindowRequest) -> str:
    sent, text = ask(client, runs, look)
    return f"{sent / 1000:.0f} kB sent, {text / 1000:.0f} kB of JSON"


def serve(studio: Studio, runs: list[str], look: WindowRequest) -> bytes:
    """Do what the route does for one GET, without the web server."""
    return gzip.compress(("[" + ",".join(one(studio, run, look) for run in runs) + "]").encode(), 4)


def restarted(home: Path, runs: list[str], look: WindowRequest) -> tuple[float, str]:
    """Measure the first paint of seven studios just started; return the median seconds, and all figures as text."""
    wall, own = [], []
    for _ in range(7):
        with Keeper(Settings(home=home, offline=True)) as studio:
            start, cpu_start = time.perf_counter(), time.thread_time()
            serve(studio, runs, look)
            own.append(time.thread_time() - cpu_start)
            wall.append(time.perf_counter() - start)
    text = (f"{1000 * statistics.median(wall):.0f} ms ({1000 * min(wall):.0f} to {1000 * max(wall):.0f}; "
            f"own work {1000 * statistics.median(own):.0f})")  # fmt: skip
    return statistics.median(wall), text


def ours(home: Path, count: int, together: int) -> float:
    """Print the times of a page's requests; return the seconds of the first paint of a studio just started."""
    eight = [f"run-{number}" for number in range(1, together + 1)]
    with Keeper(Settings(home=home, offline=True)) as studio:
        for name in eight:
            if rows.find(studio.database, studio.owner, name):
                continue  # left from an earlier --home
            start = time.perf_counter()
            fill(studio, name, count, 1 if name == "run-1" else 100)
            print(f"{name} created in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    first = 0.0
    for label, runs, weight in (
        ("one run", eight[:1], 0.6),
        ("one run", eight[:1], 0.99),
        (f"{together} runs", eight, 0.6),
    ):
        series = 9 * len(runs)
        look = WindowRequest("tokens", None, None, 1100, weight, len(runs))
        fresh = restarted(home, runs, look)
        first = first or fresh[0]
        print(f"{label}, {series} lines over tokens, smoothing {weight}:")
        print(f"  first paint of a studio just started: {fresh[1]}")
        with (
            Keeper(Settings(home=home, offline=True)) as studio,
            TestClient(make_app(studio), base_url="http://127.0.0.1") as client,
        ):
            for name, low, high in (
                ("whole run", None, None), ("zoom to a half", 0.4, 0.9), ("zoom to a tenth", 0.4, 0.5),
                ("zoom to 1000 steps", 0.4, 0.4 + 1000 / count),
            ):  # fmt: skip
                edges = [None if edge is None else edge * count * 300 for edge in (low, high)]
                window = WindowRequest("tokens", edges[0], edges[1], 1100, weight, len(runs))
                serve(studio, runs, window)
                taken = timed(lambda window=window, runs=runs: serve(studio, runs, window))  # type: ignore[misc]
                print(f"  {name}: {taken}, {served(client, runs, window)}")
    with Keeper(Settings(home=home, offline=True)) as studio:
        cursor = curves.window(studio, "run-1", WindowRequest()).cursor
        print(f"three new points: {timed(lambda: encode(curves.news(studio, 'run-1', 'step', cursor - 3)))}")
        print(f"verdict: {timed(lambda: curves.verdict(studio, 'run-1'))}")
        series_sync.drop(studio.database, "run-1")
    with Keeper(Settings(home=home, offline=True)) as studio:
        start = time.perf_counter()
        serve(studio, ["run-1"], WindowRequest("tokens", None, None, 1100, 0.6))
        print(f"first paint after the file was deleted: {time.perf_counter() - start:.1f} s")
    return first


def ingest_rate(studio: Studio, count: int) -> None:
    run = run_dir(studio, "journal")
    with Journal(run.events) as journal:
        for step in range(1, count + 1):
            journal.write("metric", step=step, loss=1 / step, learning_rate=1e-4, grad_norm=0.5, tokens=step * 300,
                          tokens_per_s=900.0, step_seconds=0.3, memory=2**30, token_accuracy=0.5)  # fmt: skip
    start, cpu_start = time.perf_counter(), time.thread_time()
    studio.refresh()
    wall, own = time.perf_counter() - start, time.thread_time() - cpu_start
    print(f"ingest of a journal of {count:,} points: {count / wall:,.0f} points/s ({count / own:,.0f} by own work)")


def event_file(home: Path, folder: Path) -> None:
    """Write the first run's ten series as an event file; print how long that takes, and requests meanwhile."""
    tags_by_kind = {kind: {name: tag for name, tag in tags.items() if name != "epoch"}
                    for kind, tags in tensorboard.TAGS.items()}  # fmt: skip
    archive = folder / "events.zip"
    with Keeper(Settings(home=home, offline=True)) as studio, mock.patch.object(tensorboard, "TAGS", tags_by_kind):
        seconds: list[float] = []

        def make() -> None:
            began = time.perf_counter(), time.thread_time()
            with archive.open("wb") as file:
                file.writelines(tensorboard.archive_of(studio, "run-1")[1])
            seconds.extend((time.perf_counter() - began[0], time.thread_time() - began[1]))

        look = WindowRequest("tokens", None, None, 1100, 0.6)
        serve(studio, ["run-1"], look)
        maker = threading.Thread(target=make)
        maker.start()
        waits = []
        while maker.is_alive():
            began = time.perf_counter()
            serve(studio, ["run-1"], look)
            waits.append(time.perf_counter() - began)
        maker.join()
    size, median = archive.stat().st_size / 1e6, 1000 * statistics.median(waits)
    print(f"TensorBoard's event file of the run: {seconds[0]:.1f} s (own work {seconds[1]:.1f}), {size:.1f} MB; "
          f"meanwhile a whole run is served in {median:.0f} ms (slowest of {len(waits)}: "
          f"{1000 * max(waits):.0f})")  # fmt: skip
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)


def peer(python: str, folder: Path, rounds: int) -> float:
    """Return the seconds EventAccumulator takes for all points of an event file; 0 if it was not measured."""
    medians = []
    for label, guidance in (("all points", {"scalars": 0}), ("at its default", {"scalars": 10_000})):
        times, own = [], []
        for _ in range(rounds):
            command = [python, "-c", PEER, str(folder), json.dumps(guidance)]
            try:
                process = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                print(f"TensorBoard was not measured: {error}.")
                return 0.0
            if process.returncode:
                print(f"TensorBoard was not measured: {process.stderr.strip().splitlines()[-1]}.")
                return 0.0
            seconds, cpu, series, values = json.loads(process.stdout)
            times.append(seconds)
            own.append(cpu)
        medians.append(statistics.median(times))
        spread = f"{min(times):.1f} to {max(times):.1f}; own work {statistics.median(own):.1f}"
        print(
            f"EventAccumulator, {label}: {medians[-1]:.1f} s ({spread}), {series} series, {values:,} values", flush=True
        )
    return medians[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Curves of long runs.")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the peer")
    parser.add_argument("--home", type=Path, help="keep the home there for the next time")
    parser.add_argument("--peer", default=sys.executable)
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Keeper(Settings(home=folder / "ingest", offline=True)) as studio:
            ingest_rate(studio, 100_000)
        print(f"{args.points:,} training points a run, as many evaluations in the first:", flush=True)
        home = args.home or folder / "home"
        first = ours(home, args.points, args.runs)
        event_file(home, folder)
        theirs = peer(args.peer, folder / "run-1", args.rounds)
    if theirs:
        print(f"EventAccumulator needs {theirs / first:,.0f} times as long for the same points as our first paint")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
