"""Runs: start, list, follow and stop them."""

import dataclasses
import importlib.util
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import BadInput, Conflict, NotFound
from studio.memory.shapes import ModelShape
from studio.recipe import Recipe
from studio.rundir import About, RunDir, create, read_json
from studio.services.core import access, identity, quotas
from studio.services.core.states import EXPLAINED, FINAL, State
from studio.services.core.studio import Studio
from studio.services.data import datasets, examples
from studio.services.data.datasets import DatasetInfo
from studio.services.models import models
from studio.services.planning import estimates
from studio.services.runs import ends
from studio.store import ingest
from studio.store import runs as rows
from studio.store.tables import Point, Run

_ID = re.compile(r"[^/\\\s.][^/\\\0-\x1f\ud800-\udfff]{0,59}")  # any name of a run directory, on any file system
_MARKS = ("checkpoint", "note", "state", "resumed")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as lists show it. Times in seconds since the epoch, memory in bytes.

    cause: why it ended, in a word (rundir.Cause). stalled_since: since when a live worker has made no progress.
    attempt: number of its current worker. can_resume: whether it is over and can be resumed; resume_hint: from where.
    position: in the queue, 1 for the next to start, 0 for a run that is not waiting. trashed: when it was moved to the
    trash. bytes: disk usage as last measured; None before that.
    """

    id: str
    name: str
    state: State
    model: str
    dataset: str
    step: int
    total_steps: int
    loss: float | None
    eval_loss: float | None
    best_eval: float | None
    created: float
    started: float | None
    ended: float | None
    seconds_left: float | None
    tokens_per_s: float | None
    step_seconds: float | None
    memory: int | None
    message: str
    remedy: str
    doing: str
    path: str
    device: str
    final: bool
    has_adapter: bool
    plan: dict[str, Any]
    cause: str = ""
    stalled_since: float | None = None
    attempt: int = 1
    can_resume: bool = False
    resume_hint: str = ""
    position: int = 0
    notes: str = ""
    tags: tuple[str, ...] = ()
    starred: bool = False
    trashed: float | None = None
    bytes: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Points:
    """New points since a cursor, and the cursor for the next call.

    A mark of kind `resumed` invalidates earlier points beyond its step, and their marks: those steps are repeated.
    """

    run: str
    after: int
    metrics: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    marks: list[dict[str, Any]]


@quotas.in_turn
def start(studio: Studio, recipe: Recipe) -> RunInfo:
    """Check a recipe against this home and queue a run of it. Raises BadInput before anything is written."""
    quotas.check_start(studio)
    files, dataset = inputs(studio, recipe)
    name = recipe.name.strip() or _next_name(studio, dataset.name)
    recipe = recipe.model_copy(update={"name": name})
    run_id = identity.new_id(studio)
    run = create(
        studio.settings.runs,
        run_id,
        {
            **files,
            "recipe.yaml": recipe.to_yaml(),
            # The estimate, for comparison with the measured peak.
            "estimate.json": _json({"predicted_bytes": _predicted(studio, recipe)}),
            "about.json": _json({"name": name, "owner": studio.owner, "created": time.time(), "notes": "", "tags": []}),
        },
    )
    quotas.note(studio, studio.visitor, starts=1)
    if studio.keeping:
        ingest.register(studio.database, run)
        studio.look()
    return get(studio, run_id)


def inputs(studio: Studio, recipe: Recipe) -> tuple[dict[str, str], DatasetInfo]:
    """The input files of a worker, by name, and its dataset; raises BadInput if the recipe cannot be trained."""
    shape = models.shape_of(studio, recipe.model.model)
    estimates.check_modules(recipe, shape)
    check_reporting(recipe)
    if recipe.output.report_to and not access.may_name_files(studio):
        raise BadInput("Report to: visitors cannot report to other services. Leave it empty under Advanced, Output.")
    folder = models.folder_of(studio, recipe.model.model)
    dataset = datasets.get(studio, recipe.data.dataset)
    examples.try_out(studio, dataset, recipe)
    pointer = {"id": dataset.id, "name": dataset.name, "sha256": dataset.sha256, "path": dataset.path}
    pointer["tokens"] = str(studio.settings.cache / "tokens")
    model = {"id": recipe.model.model, "path": str(folder), "fingerprint": fingerprint(shape)}
    return {"recipe.yaml": recipe.to_yaml(), "dataset.json": _json(pointer), "model.json": _json(model)}, dataset


def check_reporting(recipe: Recipe) -> None:
    """Raise BadInput when a library that the recipe reports to is not installed."""
    for name in recipe.output.report_to:
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"Report to {name}: it is not installed. Run `pip install {name}` in the studio's environment, or "
                "leave it out under Advanced, Output."
            )


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def fingerprint(shape: ModelShape) -> dict[str, Any]:
    """Values that distinguish a model from another with the same name."""
    return {"architecture": shape.architecture, "parameters": shape.parameters}


def _next_name(studio: Studio, base: str) -> str:
    """`base-N`, with N one above the highest in use."""
    pattern = re.compile(re.escape(base) + r"-(\d+)$")
    numbers = [int(match[1]) for name in rows.names(studio.database, studio.owner) if (match := pattern.match(name))]
    return f"{base}-{max(numbers, default=0) + 1}"


def list_runs(studio: Studio) -> list[RunInfo]:
    """All runs outside the trash, newest first; reads every run directory."""
    studio.refresh()
    line = _line(studio)
    return [_info(studio, row, line.get(row.id, 0)) for row in rows.every(studio.database, studio.owner)]


def brief(studio: Studio, stored: Sequence[Run]) -> list[RunInfo]:
    """Runs for a list, without the fields that need the run directory: has_adapter, resume_hint and plan."""
    line = _line(studio) if any(row.state == "queued" for row in stored) else {}
    return [_info(studio, row, line.get(row.id, 0), looked=False) for row in stored]


def with_adapter(studio: Studio) -> list[RunInfo]:
    """Runs with a trained adapter or model, which can be chatted with or exported; newest first."""
    return [info for info in list_runs(studio) if info.has_adapter]


def newest(studio: Studio) -> RunInfo | None:
    """The run that was created last."""
    studio.refresh()
    row = rows.newest(studio.database, studio.owner)
    return None if row is None else get(studio, row.id)


def refuse_trashed(run: RunDir, name: str) -> None:
    """Raise Conflict for a run in the trash: nothing new may use it."""
    if About.read(run).trashed is not None:
        raise Conflict(f"Run {name} is in the trash: restore it first (studio runs restore {run.id}).")


def _line(studio: Studio) -> dict[str, int]:
    return {row.id: number for number, row in enumerate(rows.waiting(studio.database), 1)}


def get(studio: Studio, run_id: str) -> RunInfo:
    """One run by its id or the start of it; raises NotFound with how to list the runs."""
    studio.refresh()
    row = rows.find(studio.database, studio.owner, run_id) if run_id else None
    if row is not None:
        line = [other.id for other in rows.waiting(studio.database)] if row.state == "queued" else []
        return _info(studio, row, line.index(row.id) + 1 if row.id in line else 0)
    if _ID.fullmatch(run_id) and studio.run_dir(run_id).recipe.is_file():
        return _just_made(studio, studio.run_dir(run_id))
    raise NotFound(f"There is no run {run_id!r}. See them with: studio runs")


def _just_made(studio: Studio, run: RunDir) -> RunInfo:
    """A run that the keeper has not added to the database yet: it is queued."""
    about = About.read(run)
    if about.owner != studio.owner:
        raise NotFound(f"There is no run {run.id!r}. See them with: studio runs")
    recipe = Recipe.load(run.recipe)
    dataset = str((read_json(run.dataset) or {}).get("name", ""))
    row = Run(
        **dict.fromkeys(("dataset", "recipe", "device", "doing", "message", "remedy", "cause"), ""),
        **dict.fromkeys(("step", "total_steps", "offset", "last_seq"), 0),
        id=run.id,
        owner=studio.owner,
        name=about.name or recipe.name or run.id,
        model=recipe.model.model,
        dataset_name=dataset,
        path=str(run.path),
        created=run.path.stat().st_ctime if about.created is None else about.created,
        state="queued",
        plan={},
        attempt=1,
        notes=about.notes,
        tags=list(about.tags),
        starred=about.starred,
        trashed=about.trashed,
    )
    return _info(studio, row, len(rows.waiting(studio.database)) + 1)


def _info(studio: Studio, row: Run, position: int, looked: bool = True) -> RunInfo:
    """A row as RunInfo. looked: include the fields that need the run directory."""
    state: State = row.state  # type: ignore[assignment]
    final = state in FINAL
    left = None
    if row.step_seconds and row.total_steps and not final:
        left = max(0, row.total_steps - row.step) * row.step_seconds
    run = studio.run_dir(row.id)
    steps = ends.checkpoint_steps(run) if final and looked else []
    return RunInfo(
        row.id,
        row.name,
        state,
        row.model,
        row.dataset_name,
        row.step,
        row.total_steps,
        row.loss,
        row.eval_loss,
        row.best_eval,
        row.created,
        row.started,
        row.ended,
        left,
        row.tokens_per_s,
        row.step_seconds,
        row.memory,
        access.for_reader(studio, _words(row, state)),
        access.for_reader(studio, row.remedy),
        row.doing,
        str(run.path),  # not from the index: the home may have been moved
        row.device,
        final,
        looked and run.trained is not None,
        dict(row.plan or {}) if looked else {},
        row.cause,
        row.stalled_since,
        row.attempt,
        final and state != "completed" and row.trashed is None,
        ends.resume_hint(state, steps) if final and looked else "",
        position,
        row.notes,
        tuple(row.tags or ()),
        row.starred,
        row.trashed,
        row.bytes,
    )


def _words(row: Run, state: State) -> str:
    if state != "stalled" or row.stalled_since is None:
        return row.message or EXPLAINED[state]
    since = time.strftime("%H:%M on %Y-%m-%d", time.localtime(row.stalled_since))
    return f"Its worker is alive, but has made no progress since {since}, after step {row.step}. It is left running."


def _predicted(studio: Studio, recipe: Recipe) -> int:
    """The estimated peak of allocated bytes, without those of the runtime and those that may be paged out."""
    return estimates.allocated(estimates.estimate(studio, recipe))


def stop(studio: Studio, run_id: str) -> RunInfo:
    """Ask a run to save a checkpoint and stop, so that it can be resumed; raises Conflict when it is over."""
    return _ask(studio, run_id, "stop")


pause = stop


def cancel(studio: Studio, run_id: str) -> RunInfo:
    """Ask a run to stop without saving; a waiting run leaves the queue. Raises Conflict when it is over."""
    return _ask(studio, run_id, "cancel")


def _ask(studio: Studio, run_id: str, what: Literal["stop", "cancel"]) -> RunInfo:
    info = get(studio, run_id)
    if info.final:
        raise Conflict(f"Run {info.name} ({info.id}) is already over: {info.state}.")
    studio.run_dir(info.id).ask(what)
    studio.look()
    return get(studio, info.id)


def points(studio: Studio, run_id: str, after: int = 0) -> Points:
    """Metric points, evaluation points and marks logged since the cursor `after`."""
    info = get(studio, run_id)
    logged = rows.points_after(studio.database, info.id, after)
    events = rows.events_after(studio.database, info.id, after, _MARKS)
    cursor = max([after, *(item.seq for item in logged), *(item.seq for item in events)])
    marks = [
        {
            "step": event.step or 0,
            "kind": event.kind,
            "text": access.for_reader(studio, _mark_text(event.payload)),
            "time": event.time,
        }
        for event in events
        if event.kind != "state" or event.payload.get("state") == "stopping"
    ]
    return Points(
        info.id,
        cursor,
        [_metric(p) for p in logged if p.eval_loss is None],
        [
            {"step": p.step, "epoch": p.epoch, "eval_loss": p.eval_loss, "time": p.time}
            for p in logged
            if p.eval_loss is not None
        ],
        marks,
    )


def _metric(point: Point) -> dict[str, Any]:
    names = (
        "step",
        "epoch",
        "time",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_s",
        "step_seconds",
        "memory",
        "token_accuracy",
    )
    return {name: getattr(point, name) for name in names}


def _mark_text(payload: dict[str, object]) -> str:
    if "attempt" in payload:
        return f"Resumed from step {payload.get('step', 0)} by worker {payload['attempt']}"
    return str(payload.get("text") or payload.get("message") or payload.get("state") or "")


def recipe_yaml(studio: Studio, run_id: str) -> str:
    """The recipe of the run as YAML, as it was started."""
    return studio.run_dir(get(studio, run_id).id).recipe.read_text(encoding="utf-8")


def recipe_of(studio: Studio, run_id: str) -> Recipe:
    """The recipe of the run."""
    return Recipe.load(studio.run_dir(get(studio, run_id).id).recipe)


def log_tail(studio: Studio, run_id: str) -> str:
    """The end of the run's log."""
    return access.for_reader(studio, studio.run_dir(get(studio, run_id).id).log_tail())


def rebuild(studio: Studio) -> int:
    """Rebuild the run tables from the run directories; returns the number of runs."""
    if not studio.keeping:
        raise Conflict("Another studio keeps this home; stop it before rebuilding its database.")
    count = ingest.rebuild(studio.database, studio.settings.runs)
    studio.look()
    return count


def as_dict(info: RunInfo) -> dict[str, Any]:
    """A run as the command line's --json prints it."""
    return dataclasses.asdict(info)
