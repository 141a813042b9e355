"""How a run ended: what happened, after which step, and what to do next.

A worker that ends in an orderly way writes exit.json. For one that cannot, the evidence is short-lived: the process
that reaped it knows the signal, and the kernel counts out-of-memory kills. So the keeper investigates as soon as it
sees the end, and writes the result to ended.json; after a restart, or with a new database, the result is the same.
"""

import contextlib
import signal
import socket
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from studio.errors import StudioError
from studio.launch import workers
from studio.machine import exit_evidence, ram
from studio.recipe import Recipe
from studio.rundir import DISK_FULL_STATUS, Beat, Cause, Exit, Identity, RunDir, boot_id, read_json, write_json
from studio.services.core.states import State
from studio.services.core.studio import Studio
from studio.services.planning import advice, estimates
from studio.store import runs as rows
from studio.store.tables import Run

_LOG_BYTES = 4_000
# A worker that was killed while it used this share of all memory was most likely killed for lack of memory.
_FULL = 0.9
_CAUSES: dict[str, Cause] = {"completed": "finished", "stopped": "stopped", "failed": "error"}
_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class End:
    """The end of one worker. time: when it was last known to be alive; log: its last lines; nonce: of the worker.

    told: the outcome of the webhook call; empty before it is made.
    """

    state: State
    cause: Cause
    message: str
    remedy: str
    time: float
    step: int
    nonce: str
    log: str = ""
    told: str = ""

    def write(self, run: RunDir) -> None:
        write_json(run.ended, asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.ended)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


def settle(studio: Studio, run: RunDir, row: Run, exit_record: Exit | None) -> End:
    """The end of a run whose worker is gone: read from ended.json, or determined now and written there."""
    nonce = nonce_of(run)
    known = End.read(run)
    if known is not None and known.nonce == nonce and (exit_record is None or exit_record.state == known.state):
        return known
    step = max(row.step, beat.step if (beat := Beat.read(run)) else 0)
    end = _from_exit(exit_record, step) if exit_record is not None else _gone(studio, run, row, step)
    if end.cause in ("memory", "killed_for_memory"):
        end = replace(end, remedy=_less_memory(studio, run) or end.remedy)
    end = replace(end, nonce=nonce, log=run.log_tail(_LOG_BYTES))
    # On a full disk, only the database has it until there is room.
    with contextlib.suppress(OSError):
        end.write(run)
    return end


def nonce_of(run: RunDir) -> str:
    """The nonce of the worker whose files are in a run directory; empty if none was started."""
    identity, claim = Identity.read(run), read_json(run.claim) or {}
    return identity.nonce if identity else str(claim.get("nonce", ""))


def _from_exit(exit_record: Exit, step: int) -> End:
    cause = exit_record.cause or _CAUSES[exit_record.state]
    return End(
        exit_record.state,
        cause,
        exit_record.message,
        exit_record.remedy,
        exit_record.time,
        step,
        "",
        exit_record.traceback,
    )


def _gone(studio: Studio, run: RunDir, row: Run, step: int) -> End:
    """The end of a worker without exit.json, derived from what is known of its process, the surest evidence first."""
    workers.reap()  # it may have ended since the last look
    identity, claim, beat = Identity.read(run), read_json(run.claim) or {}, Beat.read(run)
    code = workers.ended_with(nonce_of(run))
    when = beat.time if beat else time.time()
    after = f"after step {step}" if step else "before its first step"
    message = f"The disk was too full for its worker to record its end: it ended {after}."
    full = End("failed", "disk", message, f"Free some space. {going_on(run)}", when, step, "")
    if identity is None:
        return full if code == DISK_FULL_STATUS else _never_started(code, time.time())
    last_state = rows.last_event(studio.database, run.id, "state", int(claim.get("seq", 0)))
    if last_state is not None and last_state.payload.get("state") in _CAUSES:
        state: Any = last_state.payload["state"]
        text = str(last_state.payload.get("message") or f"It was {state}.")
        cause: Any = last_state.payload.get("cause") or _CAUSES[state]
        return End(state, cause, text, "", last_state.time, step, "")
    if code == DISK_FULL_STATUS:
        return full
    if run.asked("killed"):
        grace = f"{studio.settings.stop_grace:.0f} seconds"
        message = f"It did not stop within {grace} of being asked, and was killed {after}."
        return End("stopped", "stopped", message, going_on(run), when, step, "")
    cause, message = _what_happened(identity, claim, code, beat.memory if beat else 0)
    return End("interrupted", cause, f"{message} {after}.", going_on(run), when, step, "")


def _never_started(code: int | None, when: float) -> End:
    how = "" if code is None else f": it was killed by {_name(-code)}" if code < 0 else f" (exit status {code})"
    remedy = "See the log of the run for the reason, then resume it."
    return End("failed", "never_started", f"Its worker never started{how}.", remedy, when, 0, "")


def _what_happened(identity: Identity, claim: dict[str, Any], code: int | None, memory: int) -> tuple[Cause, str]:
    """The cause, and a sentence to be completed with 'after step N'. memory: bytes in its last heartbeat."""
    if identity.boot_id != boot_id():
        if identity.host and identity.host != socket.gethostname():
            return "gone", f"It ran on {identity.host}, and the copy of it here ends"
        return "rebooted", "The machine was restarted or lost power"
    since = float(claim.get("time", identity.started))
    if code in (None, -signal.SIGKILL) and exit_evidence.named_by_kernel(identity.pid, since, workers.booted()):
        return "killed_for_memory", "The system killed it because memory ran out"
    before, now = claim.get("oom_kills"), exit_evidence.oom_kills()
    rose = isinstance(before, int) and now is not None and now > before
    if code == -signal.SIGKILL and rose:
        return "killed_for_memory", "The system killed it because memory ran out"
    if code is None and rose:
        return (
            "killed_for_memory",
            "Most likely the system killed it because memory ran out (it killed a process at that time)",
        )
    if code == -signal.SIGKILL and now is None and memory > _FULL * ram.look().total:
        return "killed_for_memory", "It was killed while nearly all memory was in use, most likely by the system,"
    if code is not None and -code in _OUTSIDE:
        return "killed", f"Its worker was killed from outside ({_name(-code)})"
    if code is not None and code < 0:
        return "error", f"Its worker crashed in a library ({_name(-code)})"
    if code is not None:
        return "gone", f"Its worker ended without a message, with exit status {code},"
    if workers.reused(identity):
        return "gone", "Its worker is gone, and another process has its process id now: it ended without a message"
    return "killed", "Its worker ended without a message: it was killed, or crashed,"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def going_on(run: RunDir) -> str:
    """The remedy for a run that was interrupted; the checkpoint is verified only when the run is resumed."""
    steps = checkpoint_steps(run)
    if steps:
        return f"Resume it: it continues from the checkpoint of step {steps[-1]}."
    return "No checkpoint was saved: if you resume it, it starts from the beginning."


def checkpoint_steps(run: RunDir) -> list[int]:
    """Steps with a complete checkpoint in the run directory, ascending; not verified."""
    names = (path.parent.name.removeprefix("step-") for path in run.checkpoints.glob("step-*/MANIFEST.json"))
    return sorted(int(name) for name in names if name.isdigit())


def _less_memory(studio: Studio, run: RunDir) -> str:
    """The changes to this recipe that save most memory; empty where it can no longer be estimated."""
    try:
        recipe = Recipe.load(run.recipe)
        question = estimates.question(studio, recipe)
        footprint = question.footprint(recipe)
        changes = advice.as_text(advice.fixes(question, footprint))
    except StudioError:
        return ""
    if not changes:
        return ""
    peak = f"Its peak is estimated at {footprint.total / 2**30:.1f} GiB."
    return f"{peak} Clone it with one change: {'; or '.join(changes)}. Or free memory and resume it."


def resume_hint(state: str, steps: list[int]) -> str:
    """What resuming does to a run in this state with complete (unverified) checkpoints at these steps."""
    if state == "completed":
        return "Finished; it can be trained further by epochs or steps." if steps else ""
    if steps:
        return f"It continues from the checkpoint of step {steps[-1]}."
    return "It has no checkpoint: it starts again from the first step."
