"""How fast the curves of long runs are served, beside TensorBoard's reader of the same numbers.

    python -m benchmarks.curves [--points 1000000] [--peer PYTHON] [--peer-points 100000]

Makes a home with one run of that many training points and as many evaluations, straight in its database, and asks for
what a page of 1100 px asks for: all nine lines smoothed, over tokens (a tenth column). Times are processor time in the
studio's process: reading, thinning, smoothing, JSON and gzip; the median of fifteen. Ingest: of a journal.

PYTHON is an interpreter with `tensorboard` installed. There the same ten columns are written as an event file and read
by EventAccumulator, with all points and with its default of ten thousand a series.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sqlalchemy import insert

from studio.recipe import Recipe
from studio.rundir import Exit, Journal, RunDir, write_json
from studio.services import curves
from studio.services.curves import Look
from studio.services.studio import Studio
from studio.settings import Settings
from studio.store.tables import Point, Run
from studio.ui.curves import encode

PEER = """
import json, sys, time, tempfile, pathlib
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
except ImportError as error:
    sys.exit(f'not installed there: {error}')
import random
count, names = int(sys.argv[1]), json.loads(sys.argv[2])
folder = tempfile.mkdtemp()
writer = EventFileWriter(folder, max_queue_size=1000, flush_secs=600)
for step in range(1, count + 1):
    event = Event(step=step, wall_time=1e9 + step)
    for name in names:
        event.summary.value.add(tag=name, simple_value=random.random())
    writer.add_event(event)
writer.close()
size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
told = {'bytes': size}
for name, guidance in (('all', {'scalars': 0}), ('default', None)):
    began = time.perf_counter()
    reader = EventAccumulator(folder, size_guidance=guidance)
    reader.Reload()
    told[name] = [time.perf_counter() - began, sum(len(reader.Scalars(tag)) for tag in names)]
print(json.dumps(told))
"""
COLUMNS = (*curves.METRICS, *curves.EVALS, "tokens")


def run_dir(studio: Studio, name: str) -> RunDir:
    run = RunDir(studio.settings.runs / name)
    (run.path / "control").mkdir(parents=True)
    run.recipe.write_text(Recipe().with_values({"name": name, "dataset": "none"}).to_yaml())
    write_json(run.about, {"name": name, "owner": studio.owner, "created": 1000.0})
    write_json(run.dataset, {"id": "d" * 64, "name": "none"})
    return run


def fill(studio: Studio, count: int) -> None:
    """A finished run with `count` training points and as many evaluations."""
    run = run_dir(studio, "long")
    run.events.touch()
    Exit("completed", "It ended.").write(run)
    studio.refresh()
    rng = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        some: list[dict[str, object]] = []
        for step, (a, b, c, d, e) in enumerate(rng.random((min(10_000, count - start), 5)).tolist(), start + 1):
            known = {"run": "long", "time": 1e9 + step, "step": step, "epoch": step / 1e4}
            none = {"eval_loss": None, "learning_rate": None, "grad_norm": None, "loss": None, "tokens": None,
                    "tokens_per_s": None, "step_seconds": None, "memory": None}  # fmt: skip
            level = 0.5 + 2 / (1 + step / 1e4)
            some.append({**known, **none, "seq": 2 * step - 1, "loss": level + 0.3 * a, "learning_rate": 1e-3 / step,
                         "grad_norm": b, "tokens": step * 300, "tokens_per_s": 900 + 100 * c, "step_seconds": 0.3 + d,
                         "memory": 2**30 + step, "token_accuracy": e})  # fmt: skip
            some.append({**known, **none, "seq": 2 * step, "eval_loss": level + 0.1 * b, "token_accuracy": c})
        with studio.database.write() as session:
            session.execute(insert(Point), some)
    with studio.database.write() as session:
        session.get_one(Run, "long").last_seq = 2 * count


def timed(ask: Callable[[], object], times: int = 15) -> float:
    return statistics.median(once(ask) for _ in range(times))


def once(ask: Callable[[], object]) -> float:
    """Seconds of this thread's own work: what else runs on the machine does not count."""
    began = time.thread_time()
    ask()
    return time.thread_time() - began


def serve(studio: Studio, look: Look) -> tuple[int, int]:
    """What the route does for one GET; bytes of JSON and bytes sent."""
    text = encode(curves.window(studio, "long", look)).encode()
    return len(text), len(gzip.compress(text, 4))


def ours(studio: Studio, count: int) -> None:
    whole = Look(x="tokens", width=1100, weight=0.6)
    began = time.perf_counter()
    serve(studio, whole)
    print(f"read from the table, once ever: {time.perf_counter() - began:.2f} s")
    curves._shelves.clear()
    began = time.thread_time()
    sizes = serve(studio, whole)
    print(f"first paint of a studio just started: {1000 * (time.thread_time() - began):.0f} ms, "
          f"{sizes[0] / 1000:.0f} kB of JSON, {sizes[1] / 1000:.0f} kB sent")  # fmt: skip
    for name, low, high in (
        ("whole run", None, None),
        ("zoom to a tenth", 0.4, 0.5),
        ("zoom to 1000 steps", 0.4, None),
    ):
        edges = [None if edge is None else edge * count * 300 for edge in (low, high)]
        if low is not None and high is None:
            edges[1] = edges[0] + 1000 * 300  # type: ignore[operator]
        look = Look("tokens", edges[0], edges[1], 1100, 0.6)
        sizes = serve(studio, look)
        taken = timed(lambda look=look: serve(studio, look))  # type: ignore[misc]
        print(f"{name}: {1000 * taken:.0f} ms, {sizes[0] / 1000:.0f} kB of JSON, {sizes[1] / 1000:.0f} kB sent")
    cursor = curves.window(studio, "long", Look()).cursor
    print(f"three new points: {1000 * timed(lambda: encode(curves.news(studio, 'long', 'step', cursor - 3))):.0f} ms")
    print(f"verdict: {1000 * timed(lambda: curves.verdict(studio, 'long')):.0f} ms")


def ingest_rate(studio: Studio, count: int) -> None:
    run = run_dir(studio, "journal")
    with Journal(run.events) as journal:
        for step in range(1, count + 1):
            journal.write("metric", step=step, loss=1 / step, learning_rate=1e-4, grad_norm=0.5, tokens=step * 300,
                          tokens_per_s=900.0, step_seconds=0.3, memory=2**30, token_accuracy=0.5)  # fmt: skip
    began = time.perf_counter()
    studio.refresh()
    print(f"ingest of a journal: {count / (time.perf_counter() - began):,.0f} points/s")


def peer(python: str, count: int) -> None:
    command = [python, "-c", PEER, str(count), json.dumps(COLUMNS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        print(f"TensorBoard was not measured: {error}.")
        return
    if done.returncode:
        print(f"TensorBoard was not measured: {done.stderr.strip().splitlines()[-1]}.")
        return
    told = json.loads(done.stdout)
    print(f"TensorBoard, ten series of {count:,} points ({told['bytes'] / 1e6:.0f} MB of events):")
    for name in ("all", "default"):
        seconds, kept = told[name]
        print(f"  EventAccumulator, {name}: {seconds:.1f} s, keeps {kept:,} of {10 * count:,} points")


def main() -> None:
    parser = argparse.ArgumentParser(description="Curves of long runs.")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--peer-points", type=int, default=100_000)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Studio(Settings(home=Path(folder), offline=True)) as studio:
        ingest_rate(studio, 5000)
        fill(studio, told.points)
        print(f"{told.points:,} training points and as many evaluations:")
        ours(studio, told.points)
    peer(told.peer, told.peer_points)


if __name__ == "__main__":
    main()
