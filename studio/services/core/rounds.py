"""One look of the keeper: ingest journals, derive states, end workers that do not stop, start what waits.

A state is always derived from files and from whether the worker lives; nothing here remembers it. The order of reading
keeps it correct: first whether the worker lives, then how it ended, then its journal.
"""

import os
import signal
import time
from typing import cast

from studio.errors import Unavailable
from studio.launch import workers
from studio.rundir import About, Beat, Exit, Identity, RunDir, read_json, tidy
from studio.rundir.about import stamp
from studio.services.chat.session import ChatSession
from studio.services.core import jobs
from studio.services.core.identity import acting, keeper_of
from studio.services.core.states import State
from studio.services.core.studio import Studio
from studio.services.data import index as dataset_index
from studio.services.evals import evaluation_queue
from studio.services.host.warm import WarmWorker
from studio.services.planning import dry_run_results
from studio.services.runs import attempts, checkpoint_limit, disk_usage, ends, logs, queue, webhook
from studio.store import ingest, runs
from studio.store.tables import Run

_ACTIVE = ("starting", "running", "stalled", "stopping")
TRAINER = "studio.engine.workers.train"
_BEFORE_IT_BEGAN = "It was stopped before it began."


def look_round(studio: Studio) -> None:
    """Look once at everything in the home."""
    workers.reap()
    dataset_index.find(studio)
    _find_runs(studio)
    active: list[Run] = []
    waiting: list[Run] = []
    for row in runs.unfinished(studio.database):
        try:
            # Whoever triggered this look, each run is handled as its owner.
            with acting(keeper_of(row.owner)):
                state = look_at_run(studio, row)
        except (OSError, ValueError) as error:
            # One run directory that cannot be read or written must not hold up the others.
            studio.notice(row.id, f"Run {row.name} cannot be updated: {error}. This will be tried again.")
            state = cast(State, row.state)
        else:
            studio.notice(row.id, "")
        if state in _ACTIVE:
            active.append(row)
        elif state == "queued":
            waiting.append(row)
    for root in (studio.settings.exports, studio.settings.adapters):
        for folder in jobs.cancelled_in(root):
            jobs.KeptJob(folder).see_end(studio.settings.stop_grace)
    _start_what_may(studio, waiting, active)
    disk_usage.measure_some(studio)


def _start_what_may(studio: Studio, waiting: list[Run], active: list[Run]) -> None:
    """Start the first run of the queue when the device is free, and runs with a request to start now if they fit.

    Evaluations wait for the device too, each after the runs that were queued before it.
    """
    evaluations = evaluation_queue.look(studio)
    if not (waiting or evaluations.waiting) or dry_run_results.under_way(studio):
        return
    for row in waiting:
        if studio.run_dir(row.id).asked("start") and (not active or queue.lacking(studio, row, active) <= 0):
            _start(studio, row)
            active.append(row)
    if active or evaluations.active:
        return
    first = min(waiting, key=lambda row: (queue.place_of(studio, row), row.created, row.id), default=None)
    if evaluations.waiting and (first is None or evaluations.waiting[0][0] < queue.place_of(studio, first)):
        evaluation_queue.start(evaluations.waiting[0][1])
    elif first is not None:
        _start(studio, first)


def _find_runs(studio: Studio) -> None:
    known = runs.known(studio.database)
    present = set()
    with os.scandir(studio.settings.runs) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    for name in names:
        present.add(name)
        run, row = studio.run_dir(name), known.get(name)
        try:
            if row is None:
                ingest.register(studio.database, run)
                continue
            if row.about != stamp(run):
                ingest.take_about(studio.database, run)
            if row.over and run.resume.exists() and attempts.is_wanted(run):
                _go_on(studio, run)
        except (OSError, ValueError, TypeError) as error:
            studio.notice(name, f"The run directory {name} cannot be read: {error}.")
    for run_id, row in known.items():
        if row.trashed and run_id not in present:  # deleted from the trash
            runs.forget(studio.database, run_id)


def _go_on(studio: Studio, run: RunDir) -> None:
    """Put a run that is over back into the queue, once its earlier worker has exited."""
    if workers.find(run) in ("alive", "claimed") or About.read(run).trashed is not None:
        return
    attempts.put_by(run)
    ingest.again(studio.database, run)
    runs.update(
        studio.database,
        run.id,
        **{"state": "queued", "ended": None, "message": "", "remedy": "", "cause": "", "stalled_since": None},
        attempt=attempts.current(run),
        place=ingest.place_of(About.read(run)),
    )


def look_at_run(studio: Studio, row: Run) -> State:
    """Ingest a run's journal and update its row; returns its state."""
    run = studio.run_dir(row.id)
    if not run.path.is_dir():
        gone = "Its run directory was moved or deleted."
        runs.update(studio.database, row.id, state="failed", cause="gone", ended=time.time(), message=gone, doing="")
        return "failed"
    if attempts.is_wanted(run):
        _go_on(studio, run)
    process = workers.find(run)
    exit_record = Exit.read(run)
    ingest.ingest(studio.database, run)
    row = runs.get(studio.database, row.id)
    if exit_record is None and process == "unborn":
        # The studio that claimed the run died before it started a worker: the run still waits.
        run.claim.unlink(missing_ok=True)
        process = "never"
    if exit_record is None and process == "never" and (run.consume("stop") | run.consume("cancel")):
        message = _BEFORE_IT_BEGAN if attempts.current(run) == 1 else "It was stopped before it continued."
        exit_record = Exit("stopped", message, cause="stopped")
        exit_record.write(run)
    if exit_record is not None or process == "gone":
        return _over(studio, run, row, exit_record)
    last_state = (
        runs.last_said(studio.database, run.id, _seq_before(run)) if process in ("alive", "claimed") else ("", None)
    )
    state, since = _living_state(studio, run, last_state[0], process)
    place = queue.place_of(studio, row) if state == "queued" else row.place
    current = {"state": state, "stalled_since": since, "place": place, "attempt": attempts.current(run)}
    changed = {name: value for name, value in current.items() if getattr(row, name) != value}
    if changed:
        runs.update(studio.database, row.id, **changed)
    if process in ("alive", "claimed"):
        logs.bound(run.log)
        _see_it_end(studio, run, last_state)
    return state


def _over(studio: Studio, run: RunDir, row: Run, exit_record: Exit | None) -> State:
    for folder in (run.path, run.checkpoints):
        tidy(folder)
    end = ends.settle(studio, run, row, exit_record)
    runs.update(
        studio.database,
        row.id,
        **{"state": end.state, "cause": end.cause, "ended": end.time, "message": end.message, "remedy": end.remedy},
        **{"doing": "", "stalled_since": None, "attempt": attempts.current(run)},
    )
    checkpoint_limit.keep_within(run, int(studio.settings.checkpoint_gb * 2**30))
    webhook.notify(studio, run, runs.get(studio.database, row.id), end)
    return end.state


def _living_state(studio: Studio, run: RunDir, last: str, process: workers.Found) -> tuple[State, float | None]:
    """The state of a run that is not over, given the `last` state its worker wrote; if stalled, also since when."""
    if process == "never":
        return "queued", None
    if process == "claimed":
        return "starting", None
    state: State = cast(State, last) if last in ("running", "stopping") else "starting"
    beat, identity = Beat.read(run), Identity.read(run)
    moved = min(beat.progress, beat.time) if beat else identity.started if identity else time.time()
    if state != "stopping" and time.time() - moved > studio.settings.stalled_after:
        return "stalled", moved
    return state, None


def _seq_before(run: RunDir) -> int:
    """The seq of the last journal line that an earlier worker wrote."""
    return int((read_json(run.claim) or {}).get("seq", 0))


def _see_it_end(studio: Studio, run: RunDir, last_state: tuple[str, float | None]) -> None:
    """Signal a worker that was asked to stop and did not: SIGTERM first, then SIGKILL."""
    state, since = last_state
    asked = _asked_at(run) or (since if state == "stopping" else None)
    if asked is None:
        return
    over = time.time() - asked - studio.settings.stop_grace
    if over > studio.settings.stop_grace / 2:
        run.ask("killed")  # so that its end is reported as a stop, not as a crash
        workers.signal(run, signal.SIGKILL)
    elif over > 0:
        workers.signal(run, signal.SIGTERM)


def _asked_at(run: RunDir) -> float | None:
    times = []
    for name in ("stop", "cancel"):
        try:
            times.append((run.control / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    return min(times, default=None)


def _start(studio: Studio, row: Run) -> None:
    run = studio.run_dir(row.id)
    run.consume("start")
    if studio.state(ChatSession).awake and queue.missing(studio, row) > 0:
        studio.state(ChatSession).make_room(row.owner, row.name or row.id)
    try:
        started = workers.start(
            run, TRAINER, runs.get(studio.database, row.id).last_seq, studio.state(WarmWorker).take()
        )
    except Unavailable as error:
        Exit("failed", str(error), "Free what it needs, then resume the run.", cause="never_started").write(run)
        return
    except OSError as error:
        studio.notice(row.id, f"Run {row.name} cannot be started: {error}. This will be tried again.")
        return
    if started:
        runs.update(studio.database, row.id, state="starting", doing="Starting the worker")
