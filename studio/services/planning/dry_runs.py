"""Dry run: try a recipe on its longest examples before training it in full."""

import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from studio.errors import Conflict, StudioError
from studio.launch.short_tasks import Died
from studio.memory import flops
from studio.recipe import Recipe
from studio.rundir import create
from studio.services.core import access, jobs, quotas
from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.data import checks
from studio.services.evals import evaluation_queue
from studio.services.planning import dry_run_results, estimates
from studio.services.planning.dry_run_results import DryRun
from studio.services.runs import runs

_WORKER = "studio.engine.workers.dry_run"


def running(studio: Studio, recipe: Recipe) -> Generator[Progress, None, DryRun]:
    """Train a few steps on the longest examples, evaluate one batch and save once, in a real worker; yields progress.

    Closing the generator ends the worker and removes its files. The result is stored, and later estimates for such
    recipes are corrected by it. Raises BadInput where the recipe cannot be trained, Conflict while a run trains.
    """
    files = _begun(studio, recipe)
    lock = FileLock(studio.settings.dry_run_lock, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Conflict("Another dry run is under way. Wait until it is over.") from None
    with lock, checks.staged(studio) as folder:
        _nothing_trains(studio)
        measured = yield from _work(studio, create(folder, "dry-run", files).path, recipe)
        result = _result(studio, recipe, measured)
    dry_run_results.keep(studio, result)
    return result


@quotas.in_turn
def _begun(studio: Studio, recipe: Recipe) -> dict[str, str]:
    quotas.check_start(studio)  # it occupies the queue as a run does
    files, _ = runs.inputs(studio, recipe)
    quotas.note(studio, studio.visitor, starts=1)
    return files


def run(studio: Studio, recipe: Recipe, progress: Callable[[str, int, int], None] = lambda *_: None) -> DryRun:
    """Same as `running`, as a single call with a progress callback."""
    return jobs.drive(running(studio, recipe), progress)


def _nothing_trains(studio: Studio) -> None:
    busy = next((info for info in runs.list_runs(studio) if not info.final and info.state != "queued"), None)
    if busy is not None:
        raise Conflict(
            f"{busy.name} is training. A dry run at the same time would measure wrongly: wait until it is over."
        )
    if evaluation_queue.at_work(studio):
        raise Conflict(
            "An evaluation is under way. A dry run at the same time would measure wrongly: wait until it is over."
        )


def _work(studio: Studio, folder: Path, recipe: Recipe) -> Generator[Progress, None, dict[str, Any]]:
    def fault(line: Mapping[str, Any]) -> StudioError:
        message = " ".join(filter(None, (str(line["error"]), str(line["remedy"]))))
        return StudioError(access.for_reader(studio, message))

    missing = f"The dry run of {recipe.model.model} ended without a result. Try again."
    arguments, log = [str(folder)], folder / "log.txt"
    try:
        job = jobs.ShortJob(_WORKER, arguments, log, "measured", fault=fault, missing=missing)
        return dict((yield from job.run())["measured"])
    except Died as died:
        if died.signal in (signal.SIGKILL, signal.SIGABRT):
            raise StudioError(
                "This recipe needs more memory than the machine has: the system killed its dry run. See what would "
                "make it fit, or use a smaller per_device_train_batch_size or max_length."
            ) from None
        raise


def _result(studio: Studio, recipe: Recipe, measured: dict[str, Any]) -> DryRun:
    question = estimates.question(studio, recipe)
    footprint = question.footprint(recipe)
    operations = measured["tokens"] * flops.per_token(question.shape, recipe, measured["length"], question.share)
    return DryRun(
        device=question.device,
        values=dry_run_results.values_of(recipe),
        predicted=footprint.allocated,
        measured=int(measured["bytes"]),
        fixed=footprint.fixed,
        step_seconds=float(measured["step_seconds"]),
        eval_seconds=float(measured["eval_seconds"]),
        save_seconds=float(measured["save_seconds"]),
        rate=operations / measured["step_seconds"],
        rows=int(measured["rows"]),
        length=int(measured["length"]),
    )
