"""The trash: a run in it is out of every list and can come back; only emptying it deletes anything.

That a run is in the trash stands in its about.json, so it survives kills and a rebuilt database. Emptying renames the
run directory out of sight, which is whole or not at all, and deletes it then; what a kill leaves of that is deleted at
the next start.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from studio.errors import Conflict
from studio.launch import workers
from studio.rundir import GONE, About, RunDir, about
from studio.services.chat import chat
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.evals import evaluations
from studio.services.exports import exports
from studio.services.runs import attempts, disk_usage, labels, runs
from studio.services.runs.runs import RunInfo
from studio.store import run_list
from studio.store import runs as rows
from studio.store.series import sync as series_sync


@dataclass(frozen=True, slots=True)
class Emptied:
    """What emptying the trash came to. freed: bytes; kept: runs that are in use, each with the reason."""

    freed: int
    deleted: list[str]
    kept: list[tuple[str, str]]


def throw(studio: Studio, run_id: str) -> RunInfo:
    """Put a run that is over into the trash; raises Conflict with the reason where it is in use."""
    studio.look()
    info = runs.get(studio, run_id)
    if info.trashed is not None:
        return info
    if not info.final:
        raise Conflict(f"Run {info.name} ({info.id}) is {info.state}: stop it first, then put it into the trash.")
    run = studio.run_dir(info.id)
    with about.held(run):
        reason = _in_use(studio, info)
        if reason:
            raise Conflict(f"Run {info.name} cannot be put into the trash: {reason}")
        about.write(run, trashed=time.time())
    return labels.follow(studio, info)


def restore(studio: Studio, run_id: str) -> RunInfo:
    """Take a run out of the trash again; raises Conflict when it is not in it."""
    info = runs.get(studio, run_id)
    if info.trashed is None:
        raise Conflict(f"Run {info.name} ({info.id}) is not in the trash.")
    return labels.write(studio, info, trashed=None)


def contents(studio: Studio) -> list[RunInfo]:
    """The runs in the trash with their sizes counted now, last thrown first."""
    studio.refresh()
    ids = [one for one in run_list.trashed_ids(studio.database, studio.owner) if studio.run_dir(one).path.is_dir()]
    if studio.keeping and ids:
        now = {one: disk_usage.taken(studio.run_dir(one).path) for one in ids}
        run_list.measured(studio.database, now, time.time())
    return [runs.get(studio, one) for one in ids]


def empty(studio: Studio, only: Sequence[str] | None = None) -> Emptied:
    """Delete the runs in the trash for good, or `only` those of them; one that is in use stays, with the reason."""
    freed, deleted, kept = 0, [], []
    for info in contents(studio):
        if only is not None and info.id not in only:
            continue
        run = studio.run_dir(info.id)
        with about.held(run):
            if About.read(run).trashed is None:  # somebody took it out just now
                continue
            reason = _in_use(studio, info)
            if reason:
                kept.append((info.name, reason))
                continue
            size = disk_usage.taken(run.path)
            gone = run.path.rename(run.path.with_name(f".{info.id}{GONE}"))
        shutil.rmtree(gone, ignore_errors=True)
        freed += size - disk_usage.taken(gone)  # what could not be deleted is not free
        deleted.append(info.name)
        if studio.keeping:
            rows.forget(studio.database, info.id)
            series_sync.drop(studio.database, info.id)
    return Emptied(freed, deleted, kept)


def finish(studio: Studio) -> None:
    """Delete what a deletion that was killed has left, of runs and of all else."""
    settings = studio.settings
    for root in (
        *(settings.runs, settings.exports, settings.evaluations),
        *(settings.adapters, settings.prompts, settings.datasets),
    ):
        for path in root.glob(f".*{GONE}"):
            shutil.rmtree(path, ignore_errors=True)


def _in_use(studio: Studio, info: RunInfo) -> str:
    """Why a run that is over must not go away now; empty when nothing uses it."""
    run: RunDir = studio.run_dir(info.id)
    if workers.find(run) in ("alive", "claimed"):
        return "its worker has not left yet. Try again in a moment."
    if attempts.is_wanted(run):
        return "it waits to go on. Cancel that first."
    if any(one.state not in FINAL for one in exports.list_exports(studio, info.id)):
        return "an export of it is being made. Wait until that is done."
    if any(one.state not in FINAL for one in evaluations.list_evaluations(studio, info.id)):
        return "it is being evaluated. Wait until that is done."
    if not chat.let_go(studio, info.id):
        return "it is being asked in Compare. Wait until it has answered."
    return ""
