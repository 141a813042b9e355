"""Resuming a run from its newest complete checkpoint, and extending one beyond its planned length.

Only where it remains the same training: the same data and model, and library versions that compute the same numbers.
"""

from dataclasses import replace
from importlib import metadata

from studio.dataset import store as dataset_files
from studio.errors import BadInput, Conflict, NotFound
from studio.recipe import Recipe
from studio.rundir import Identity, RunDir, about, newest_checkpoint, read_json
from studio.services.core import quotas
from studio.services.core.studio import Studio
from studio.services.models import models
from studio.services.runs import attempts, queue, runs
from studio.services.runs.attempts import Plan
from studio.services.runs.runs import RunInfo

_LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")


def resume(studio: Studio, run_id: str, force: bool = False) -> RunInfo:
    """Put a run that did not complete back into the queue, to resume from its newest complete checkpoint.

    force: also with other versions of the libraries. Raises Conflict with the reason where it cannot be resumed.
    """
    info = _over(studio, run_id)
    if info.state == "completed":
        raise Conflict(f"Run {info.name} is finished. To train it further: studio resume {info.id} --epochs 1")
    run = studio.run_dir(info.id)
    _same(studio, info, run, force)
    newest, before = newest_checkpoint(run), attempts.Plan.read(run)
    plan = Plan(
        attempts.current(run) + 1,
        f"checkpoints/{newest.name}" if newest else "",
        before.num_train_epochs if before else None,
        before.max_steps if before else None,
    )
    return _queue(studio, info, run, plan)


def extend(
    studio: Studio, run_id: str, epochs: float | None = None, steps: int | None = None, force: bool = False
) -> RunInfo:
    """Train a run that is over for this many more epochs or steps than planned."""
    if (epochs is None) == (steps is None) or (epochs if steps is None else steps or 0) <= 0:  # type: ignore[operator]
        raise BadInput("Say how much longer to train: a number of epochs or of steps, above 0.")
    info = _over(studio, run_id)
    run = studio.run_dir(info.id)
    _same(studio, info, run, force)
    newest = newest_checkpoint(run)
    if newest is None:
        raise Conflict(
            f"Run {info.name} has no complete checkpoint to resume from. Start a longer run with its recipe."
        )
    schedule, before = Recipe.load(run.recipe).schedule, attempts.Plan.read(run)
    until = (before.max_steps if before else None) or (schedule.max_steps if schedule.max_steps > 0 else None)
    plan = Plan(attempts.current(run) + 1, f"checkpoints/{newest.name}")
    if steps is not None:
        plan = replace(plan, max_steps=(until or info.total_steps or info.step) + steps)
    elif until is not None:
        raise Conflict(f"Run {info.name} is measured in steps (max_steps {until}). Extend it by steps.")
    else:
        total = (before.num_train_epochs if before else None) or schedule.num_train_epochs
        plan = replace(plan, num_train_epochs=total + (epochs or 0.0))
    return _queue(studio, info, run, plan)


def _over(studio: Studio, run_id: str) -> RunInfo:
    studio.look()
    info = runs.get(studio, run_id)
    if not info.final:
        raise Conflict(f"Run {info.name} ({info.id}) is not over: it is {info.state}.")
    runs.refuse_trashed(studio.run_dir(info.id), info.name)
    return info


@quotas.in_turn
def _queue(studio: Studio, info: RunInfo, run: RunDir, plan: Plan) -> RunInfo:
    quotas.check_start(studio)
    last = max((queue.place_of(studio, row) for row in queue.line(studio)), default=0.0)
    with about.held(run):  # so that it is not moved to the trash meanwhile
        runs.refuse_trashed(run, info.name)
        about.write(run, order=queue.after(last))
        attempts.forget_wishes(run)
        plan.write(run)
    quotas.note(studio, studio.visitor, starts=1)
    studio.look()
    return runs.get(studio, info.id)


def _same(studio: Studio, info: RunInfo, run: RunDir, force: bool) -> None:
    """Raise Conflict where a resumed run would not be the same training."""
    pointer = read_json(run.dataset) or {}
    folder = studio.settings.datasets / str(pointer.get("id"))
    try:
        sha256 = dataset_files.content_sha256(folder)
    except NotFound:
        raise Conflict(
            f"Run {info.name} cannot be resumed: its dataset {info.dataset} is no longer here. Add the same file again."
        ) from None
    except (OSError, ValueError):
        raise Conflict(
            f"Run {info.name} cannot be resumed: its dataset {info.dataset} is damaged. Delete it and add the "
            "file again."
        ) from None
    if sha256 != pointer.get("sha256", pointer.get("id")):
        raise Conflict(
            f"Run {info.name} cannot be resumed: the examples of {info.dataset} are not those it started with "
            f"(sha256 {sha256[:12]} instead of {str(pointer.get('sha256'))[:12]}). Add the original file again."
        )
    model = read_json(run.path / "model.json") or {}
    fingerprint = model.get("fingerprint")
    if fingerprint is not None and fingerprint != runs.fingerprint(models.shape_of(studio, info.model)):
        raise Conflict(
            f"Run {info.name} cannot be resumed: {info.model} is not the model it started with. Start a new run."
        )
    changed = _other_versions(run)
    if changed and not force:
        raise Conflict(
            f"Run {info.name} started with other library versions ({', '.join(changed)}): it may not continue "
            "exactly as before. Install those versions, or resume it with --force."
        )


def _other_versions(run: RunDir) -> list[str]:
    """Libraries whose major or minor version differs from that of the last worker."""
    folders = (run, *reversed(attempts.earlier(run)))
    identity = next((known for folder in folders if (known := Identity.read(folder))), None)
    changed = []
    for name in _LIBRARIES if identity else ():
        then = identity.versions.get(name) if identity else None
        if then is None:
            continue
        try:
            now = metadata.version(name)
        except metadata.PackageNotFoundError:
            now = "none"
        if then.split(".")[:2] != now.split(".")[:2]:
            changed.append(f"{name} {then}, now {now}")
    return changed
