"""The whole story of a run: what it was meant to be, what happened to it and when, and what it left."""

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
    """Something that happened to a run: a state it came to, or that a worker went on from a step."""

    time: float
    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker of a run. state is empty while it is at work. memory: bytes of RAM when it was last seen."""

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
    """All that is known of a run. predicted and measured: peak bytes, None where nobody told."""

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
    samples: list[dict[str, Any]]
    webhook: str
    log: list[str]


def story_of(studio: Studio, run_id: str) -> Story:
    """The story of one run; reads and verifies every checkpoint."""
    info = runs.get(studio, run_id)
    run = studio.run_dir(info.id)
    found = checkpoint_limit.checkpoints(run)
    measured = rows.last_event(studio.database, info.id, "measured")
    end = ends.End.read(run)
    return Story(
        run=info,
        recipe=run.recipe.read_text(encoding="utf-8"),
        dataset=read_json(run.dataset) or {},
        model=read_json(run.path / "model.json") or {},
        states=_states(studio, info),
        attempts=[_attempt(studio, number, one) for number, one in enumerate([*attempts.earlier(run), run], 1)],
        checkpoints=found,
        checkpoint_bytes=sum(one.bytes for one in found),
        predicted=_bytes((read_json(run.path / "estimate.json") or {}).get("predicted_bytes")),
        measured=_bytes(measured.payload.get("bytes")) if measured else None,
        samples=samples_of(studio, info),
        webhook=end.told if end else "",
        log=runs.log_tail(studio, info.id).splitlines()[-_LOG_LINES:],
    )


def as_dict(story: Story) -> dict[str, Any]:
    """A story as the command line's --json prints it: the run's own fields, and the rest beside them."""
    told = asdict(story)
    run: dict[str, Any] = told.pop("run")
    return run | told


def _states(studio: Studio, info: RunInfo) -> list[Happening]:
    found = [Happening(info.created, "queued", "")]
    for event in rows.events_after(studio.database, info.id, 0, ("state", "resumed")):
        if event.kind == "resumed":
            found.append(Happening(event.time, "resumed", f"from step {event.step or 0}"))
        else:
            message = access.for_reader(studio, str(event.payload.get("message") or ""))
            found.append(Happening(event.time, str(event.payload.get("state")), message))
    if info.final and info.state != found[-1].state:
        found.append(Happening(info.ended or time.time(), info.state, info.message))
    return found


def _attempt(studio: Studio, number: int, run: RunDir) -> Attempt:
    identity, claim, beat = Identity.read(run), read_json(run.claim) or {}, Beat.read(run)
    said, end = Exit.read(run), ends.End.read(run)
    last = end or said
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
    """What a run answered to the user's prompts while it trained, oldest first."""
    return samples_of(studio, runs.get(studio, run_id))


def samples_of(studio: Studio, info: RunInfo) -> list[dict[str, Any]]:
    """As `samples`, of a run that is at hand."""
    return [event.payload for event in rows.events_after(studio.database, info.id, 0, ("sample",))]
