"""The history of a run: its recipe, what happened to it and when, and its results."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from studio.launch import workers
from studio.rundir import Beat, Exit, Identity, RunDir, read_json
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.runs import attempts, checkpoint_limit, ends, runs
from studio.services.runs.checkpoint_limit import Checkpoint
from studio.services.runs.runs import RunInfo
from studio.store import runs as rows

_LOG_LINES = 20


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of a run: a new state, or that a worker resumed from a step."""

    time: float
    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker of a run. state: empty while it works. memory: bytes of RAM in its last heartbeat."""

    number: int
    pid: int | None
    host: str
    device: str
    started: float | None
    last_seen: float | None
    memory: int | None
    alive: bool
    versions: dict[str, str]
    state: str
    cause: str
    message: str
    log: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything known about a run. predicted and measured: peak bytes, None where not known.

    warnings: what its workers warned of, such as examples that the template refuses, each once.
    """

    run: RunInfo
    recipe: str
    dataset: dict[str, Any]
    model: dict[str, Any]
    states: list[Happening]
    attempts: list[Attempt]
    checkpoints: list[Checkpoint]
    checkpoint_bytes: int
    predicted: int | None
    measured: int | None
    warnings: list[str]
    samples: list[dict[str, Any]]
    webhook: str
    log: list[str]


def story_of(studio: Studio, run_id: str) -> Story:
    """The history of one run; reads and verifies every checkpoint."""
    info = runs.get(studio, run_id)
    run = studio.run_dir(info.id)
    checkpoints = checkpoint_limit.checkpoints(run)
    measured = rows.last_event(studio.database, info.id, "measured")
    end = ends.End.read(run)
    return Story(
        run=info,
        recipe=run.recipe.read_text(encoding="utf-8"),
        dataset=read_json(run.dataset) or {},
        model=read_json(run.path / "model.json") or {},
        states=_states(studio, info),
        attempts=[_attempt(studio, number, folder) for number, folder in enumerate([*attempts.earlier(run), run], 1)],
        checkpoints=checkpoints,
        checkpoint_bytes=sum(checkpoint.bytes for checkpoint in checkpoints),
        predicted=_bytes((read_json(run.path / "estimate.json") or {}).get("predicted_bytes")),
        measured=_bytes(measured.payload.get("bytes")) if measured else None,
        warnings=_warnings(studio, info),
        samples=samples_of(studio, info),
        webhook=end.told if end else "",
        log=runs.log_tail(studio, info.id).splitlines()[-_LOG_LINES:],
    )


def as_dict(story: Story) -> dict[str, Any]:
    """A story as the command line's --json prints it: one flat object with the fields of the run and the rest."""
    fields = asdict(story)
    run: dict[str, Any] = fields.pop("run")
    return run | fields


def _states(studio: Studio, info: RunInfo) -> list[Happening]:
    happenings = [Happening(info.created, "queued", "")]
    for event in rows.events_after(studio.database, info.id, 0, ("state", "resumed")):
        if event.kind == "resumed":
            happenings.append(Happening(event.time, "resumed", f"from step {event.step or 0}"))
        else:
            message = access.for_reader(studio, str(event.payload.get("message") or ""))
            happenings.append(Happening(event.time, str(event.payload.get("state")), message))
    if info.final and info.state != happenings[-1].state:
        happenings.append(Happening(info.ended or time.time(), info.state, info.message))
    return happenings


def _warnings(studio: Studio, info: RunInfo) -> list[str]:
    notes = [event.payload for event in rows.events_after(studio.database, info.id, 0, ("note",))]
    texts = (str(note.get("text")) for note in notes if note.get("level") == "warning")
    return [access.for_reader(studio, text) for text in dict.fromkeys(texts)]


def _attempt(studio: Studio, number: int, run: RunDir) -> Attempt:
    identity, claim, beat = Identity.read(run), read_json(run.claim) or {}, Beat.read(run)
    exit_record, end = Exit.read(run), ends.End.read(run)
    last = end or exit_record
    return Attempt(
        number=number,
        pid=identity.pid if identity else claim.get("pid"),
        host=identity.host if identity else "",
        device=identity.device if identity else "",
        started=identity.started if identity else claim.get("time"),
        last_seen=beat.time if beat else None,
        memory=(beat.memory or None) if beat else None,
        alive=workers.find(run) in ("alive", "claimed"),
        versions=identity.versions if identity else {},
        state=last.state if last else "",
        cause=last.cause if last else "",
        message=access.for_reader(studio, last.message) if last else "",
        log=access.for_reader(studio, end.log) if end else "",
    )


def _bytes(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def samples(studio: Studio, run_id: str) -> list[dict[str, Any]]:
    """Answers of a run to the sample prompts during training, oldest first."""
    return samples_of(studio, runs.get(studio, run_id))


def samples_of(studio: Studio, info: RunInfo) -> list[dict[str, Any]]:
    """Same as `samples`, for a run already loaded."""
    return [event.payload for event in rows.events_after(studio.database, info.id, 0, ("sample",))]
