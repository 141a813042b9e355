"""The trash: a run in it is hidden from all lists and can be restored; only emptying the trash deletes anything.

The trash state is stored in the run's about.json, so it survives kills and a rebuilt database. Emptying first renames
the run directory to a hidden name, which is atomic, and then deletes it; what a kill leaves is deleted at the next
start.
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
    """The result of emptying the trash. freed: bytes; kept: runs in use, each with the reason."""

    freed: int
    deleted: list[str]
    kept: list[tuple[str, str]]


def throw(studio: Studio, run_id: str) -> RunInfo:
    """Move a run that is over to the trash; raises Conflict with the reason where it is in use."""
    studio.look()
    info = runs.get(studio, run_id)
    if info.trashed is not None:
        return info
    if not info.final:
        raise Conflict(f"Run {info.name} ({info.id}) is {info.state}: stop it first, then move it to the trash.")
    run = studio.run_dir(info.id)
    with about.held(run):
        reason = _in_use(studio, info)
        if reason:
            raise Conflict(f"Run {info.name} cannot be moved to the trash: {reason}")
        about.write(run, trashed=time.time())
    return labels.follow(studio, info)


def restore(studio: Studio, run_id: str) -> RunInfo:
    """Restore a run from the trash; raises Conflict when it is not in it."""
    info = runs.get(studio, run_id)
    if info.trashed is None:
        raise Conflict(f"Run {info.name} ({info.id}) is not in the trash.")
    return labels.write(studio, info, trashed=None)


def contents(studio: Studio) -> list[RunInfo]:
    """The runs in the trash, most recently trashed first, with their sizes measured now."""
    studio.refresh()
    trashed = run_list.trashed_ids(studio.database, studio.owner)
    ids = [run_id for run_id in trashed if studio.run_dir(run_id).path.is_dir()]
    if studio.keeping and ids:
        sizes = {run_id: disk_usage.taken(studio.run_dir(run_id).path) for run_id in ids}
        run_list.measured(studio.database, sizes, time.time())
    return [runs.get(studio, run_id) for run_id in ids]


def empty(studio: Studio, only: Sequence[str] | None = None) -> Emptied:
    """Permanently delete the runs in the trash, or `only` these of them; a run in use is kept, with the reason."""
    freed, deleted, kept = 0, [], []
    for info in contents(studio):
        if only is not None and info.id not in only:
            continue
        run = studio.run_dir(info.id)
        with about.held(run):
            if About.read(run).trashed is None:  # it was restored just now
                continue
            reason = _in_use(studio, info)
            if reason:
                kept.append((info.name, reason))
                continue
            size = disk_usage.taken(run.path)
            hidden = run.path.rename(run.path.with_name(f".{info.id}{GONE}"))
        shutil.rmtree(hidden, ignore_errors=True)
        freed += size - disk_usage.taken(hidden)  # files that could not be deleted are not freed
        deleted.append(info.name)
        if studio.keeping:
            rows.forget(studio.database, info.id)
            series_sync.drop(studio.database, info.id)
    return Emptied(freed, deleted, kept)


def finish(studio: Studio) -> None:
    """Delete the remains of interrupted deletions, of runs and everything else."""
    settings = studio.settings
    for root in (
        *(settings.runs, settings.exports, settings.evaluations),
        *(settings.adapters, settings.prompts, settings.datasets),
    ):
        for path in root.glob(f".*{GONE}"):
            shutil.rmtree(path, ignore_errors=True)


def _in_use(studio: Studio, info: RunInfo) -> str:
    """Why a run that is over must not be deleted now; empty when nothing uses it."""
    run: RunDir = studio.run_dir(info.id)
    if workers.find(run) in ("alive", "claimed"):
        return "its worker has not exited yet. Try again in a moment."
    if attempts.is_wanted(run):
        return "it is waiting to be resumed. Cancel that first."
    if any(export.state not in FINAL for export in exports.list_exports(studio, info.id)):
        return "an export of it is being made. Wait until that is done."
    if any(evaluation.state not in FINAL for evaluation in evaluations.list_evaluations(studio, info.id)):
        return "it is being evaluated. Wait until that is done."
    if not chat.let_go(studio, info.id):
        return "it is answering in Compare. Wait until it has answered."
    return ""
