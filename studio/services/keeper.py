"""What the keeper of a home does at each look: take in journals, tell states, end what does not end, start what waits.

A state is always derived from files and from whether the worker lives; nothing here remembers it. The order of
reading makes it true: first whether the worker lives, then how it ended, then its journal.
"""

import logging
import signal
import time
from typing import TYPE_CHECKING, cast

from studio.dataset import store as dataset_files
from studio.errors import Unavailable
from studio.launch import local
from studio.rundir import Beat, Exit, Identity, RunDir
from studio.services import measured
from studio.services.states import State
from studio.store import datasets as dataset_rows
from studio.store import ingest, runs
from studio.store.tables import Run

if TYPE_CHECKING:
    from studio.services.studio import Studio

_log = logging.getLogger(__name__)
_ACTIVE = ("starting", "running", "stalled", "stopping")


def look_round_safely(studio: "Studio") -> None:
    """As look_round; what goes wrong is logged and tried again at the next look, so that keeping never ends."""
    try:
        look_round(studio)
    except Exception:
        _log.exception("The keeper could not finish its look; it tries again.")


def look_round(studio: "Studio") -> None:
    """One look at everything in the home."""
    local.reap()
    _find_datasets(studio)
    _find_runs(studio)
    waiting: list[Run] = []
    busy = False
    for row in runs.unfinished(studio.database):
        state = look_at_run(studio, row)
        busy = busy or state in _ACTIVE
        if state == "queued":
            waiting.append(row)
    if waiting and not busy and not measured.under_way(studio):
        _start(studio, waiting[0])


def _find_datasets(studio: "Studio") -> None:
    known = dataset_rows.known_ids(studio.database)
    there = {path.name for path in studio.settings.datasets.iterdir() if not path.name.startswith(".")}
    for name in there - known:
        found = dataset_files.load(studio.settings.datasets / name)
        if found is not None and found.id == name:
            index_dataset(studio, found)
    for name in known - there:
        dataset_rows.forget(studio.database, name)


def index_dataset(studio: "Studio", found: dataset_files.Provenance) -> None:
    """Give a dataset folder its row."""
    folder = studio.settings.datasets / found.id
    size = sum(path.stat().st_size for path in folder.iterdir())
    dataset_rows.put(
        studio.database,
        id=found.id,
        owner=found.owner,
        name=found.name,
        rows=found.rows,
        held_out=found.held_out,
        format=found.format,
        created=found.created,
        size=size,
        provenance=dataset_files.as_dict(found),
    )


def _find_runs(studio: "Studio") -> None:
    known = runs.known_ids(studio.database)
    for path in studio.settings.runs.iterdir():
        if not path.name.startswith(".") and path.name not in known and path.is_dir():
            ingest.register(studio.database, RunDir(path))


def look_at_run(studio: "Studio", row: Run) -> State:
    """Take in one run's news and bring its row up to the truth; returns its state."""
    run = studio.run_dir(row.id)
    if not run.path.is_dir():
        runs.update(
            studio.database,
            row.id,
            state="failed",
            ended=time.time(),
            message="Its run directory was moved or deleted.",
        )
        return "failed"
    found = local.find(run)
    end = Exit.read(run)
    ingest.ingest(studio.database, run)
    row = runs.get(studio.database, row.id)
    if end is not None:
        runs.update(
            studio.database,
            row.id,
            state=end.state,
            ended=end.time,
            message=end.message,
            remedy=end.remedy,
            doing="",
            started=row.started or end.time,
        )
        return end.state
    if found in ("never", "claimed") and run.consume("cancel" if run.asked("cancel") else "stop"):
        if found == "claimed":
            run.ask("stop")  # it has been started already: let it stop itself
        else:
            Exit("stopped", "It was stopped before it began.").write(run)
            return look_at_run(studio, row)
    state = _living_state(studio, run, row, found)
    if state == "interrupted":
        _interrupted(studio, run, row)
    elif state != row.state:
        runs.update(studio.database, row.id, state=state)
    if found == "alive":
        _see_it_end(studio, run, row)
    return state


def _living_state(studio: "Studio", run: RunDir, row: Run, found: local.Found) -> State:
    if found == "never":
        return "queued"
    if found == "claimed":
        return "starting"
    if found == "gone":
        return "interrupted"
    last = runs.last_state(studio.database, row.id)
    said: State = cast(State, last) if last in ("running", "stopping") else "starting"
    beat = Beat.read(run)
    if beat is not None and said != "stopping" and time.time() - beat.progress > studio.settings.stalled_after:
        return "stalled"
    return said


def _interrupted(studio: "Studio", run: RunDir, row: Run) -> None:
    beat = Beat.read(run)
    if Identity.read(run) is None:
        Exit("failed", "Its worker never started.", "Look at the log of the run, then start it again.").write(run)
        look_at_run(studio, row)
        return
    when = beat.time if beat else time.time()
    runs.update(
        studio.database,
        row.id,
        state="interrupted",
        ended=when,
        doing="",
        message=f"Its worker ended without a word after step {row.step}: it was killed, or the machine went down.",
        remedy="The metrics up to that step are kept. Start the run again.",
    )


def _see_it_end(studio: "Studio", run: RunDir, row: Run) -> None:
    """A worker that was asked to stop and does not is signalled, first kindly."""
    asked = _asked_at(run)
    if asked is None:
        last = runs.last_event(studio.database, row.id, "state", "stopping")
        asked = last.time if last is not None else None
    if asked is None:
        return
    over = time.time() - asked - studio.settings.stop_grace
    if over > studio.settings.stop_grace / 2:
        local.signal(run, signal.SIGKILL)
    elif over > 0:
        local.signal(run, signal.SIGTERM)


def _asked_at(run: RunDir) -> float | None:
    times = []
    for name in ("stop", "cancel"):
        try:
            times.append((run.control / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    return min(times, default=None)


def _start(studio: "Studio", row: Run) -> None:
    run = studio.run_dir(row.id)
    try:
        local.start(run, "studio.engine.train")
    except Unavailable as error:
        Exit("failed", str(error)).write(run)
    else:
        runs.update(studio.database, row.id, state="starting", started=time.time(), doing="Starting the worker")
