"""The dry run: a recipe tried out on its longest examples before an evening is spent on it."""

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
    """Train a few steps on the longest examples, evaluate one batch and save once, in a real worker, step by step.

    Closing the generator ends the worker; nothing of it is left. The result is kept, and later estimates for such
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
        told = yield from _work(studio, create(folder, "dry-run", files).path, recipe)
        found = _as_found(studio, recipe, told)
    dry_run_results.keep(studio, found)
    return found


@quotas.in_turn
def _begun(studio: Studio, recipe: Recipe) -> dict[str, str]:
    quotas.check_start(studio)  # it holds up the queue as a run does
    files, _ = runs.inputs(studio, recipe)
    quotas.note(studio, studio.visitor, starts=1)
    return files


def run(studio: Studio, recipe: Recipe, progress: Callable[[str, int, int], None] = lambda *_: None) -> DryRun:
    """As `running`, in one go."""
    return jobs.drive(running(studio, recipe), progress)


def _nothing_trains(studio: Studio) -> None:
    busy = next((info for info in runs.list_runs(studio) if not info.final and info.state != "queued"), None)
    if busy is not None:
        raise Conflict(f"{busy.name} is training. A dry run beside it would measure neither: wait until it is over.")
    if evaluation_queue.at_work(studio):
        raise Conflict("An evaluation is under way. A dry run beside it would measure neither: wait until it is over.")


def _work(studio: Studio, folder: Path, recipe: Recipe) -> Generator[Progress, None, dict[str, Any]]:
    def fault(line: Mapping[str, Any]) -> StudioError:
        said = " ".join(filter(None, (str(line["error"]), str(line["remedy"]))))
        return StudioError(access.for_reader(studio, said))

    missing = f"The dry run of {recipe.model.model} ended without a result. Try again."
    arguments, log = [str(folder)], folder / "log.txt"
    try:
        job = jobs.ShortJob(_WORKER, arguments, log, "measured", fault=fault, missing=missing)
        return dict((yield from job.run())["measured"])
    except Died as died:
        if died.signal in (signal.SIGKILL, signal.SIGABRT):
            raise StudioError(
                "This recipe needs more memory than the machine has: the system ended its dry run. Look at what would "
                "make it fit, or take a smaller per_device_train_batch_size or max_length."
            ) from None
        raise


def _as_found(studio: Studio, recipe: Recipe, told: dict[str, Any]) -> DryRun:
    asked = estimates.question(studio, recipe)
    plain = asked.footprint(recipe)
    operations = told["tokens"] * flops.per_token(asked.shape, recipe, told["length"], asked.share)
    return DryRun(
        device=asked.device,
        values=dry_run_results.values_of(recipe),
        predicted=plain.allocated,
        measured=int(told["bytes"]),
        fixed=plain.fixed,
        step_seconds=float(told["step_seconds"]),
        eval_seconds=float(told["eval_seconds"]),
        save_seconds=float(told["save_seconds"]),
        rate=operations / told["step_seconds"],
        rows=int(told["rows"]),
        length=int(told["length"]),
    )
