"""How a run ended, told truly and in words: what happened, after which step, what to do next.

A worker that can still speak writes exit.json. Of one that cannot, the evidence fades: who reaped it knows the signal,
the kernel counts whom it ended for memory. So the keeper looks at once, when it first sees the end, and writes what it
found to ended.json; after a restart, or with a new database, the same is told.
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
# A worker that had this share of the memory there is, and was killed, was most likely killed for it.
_FULL = 0.9
_CAUSES: dict[str, Cause] = {"completed": "finished", "stopped": "stopped", "failed": "error"}
_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class End:
    """The end of one worker. time: when it was last known to live; log: its last lines; nonce: which worker.

    told: whether the webhook was called, or what it answered instead; empty before.
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


def settle(studio: Studio, run: RunDir, row: Run, said: Exit | None) -> End:
    """The end of a run whose worker is over: as it was found out before, else found out now and written down."""
    nonce = nonce_of(run)
    known = End.read(run)
    if known is not None and known.nonce == nonce and (said is None or said.state == known.state):
        return known
    step = max(row.step, beat.step if (beat := Beat.read(run)) else 0)
    found = _as_said(said, step) if said is not None else _gone(studio, run, row, step)
    if found.cause in ("memory", "killed_for_memory"):
        found = replace(found, remedy=_less_memory(studio, run) or found.remedy)
    found = replace(found, nonce=nonce, log=run.log_tail(_LOG_BYTES))
    # On a full disk it is told from the database until there is room.
    with contextlib.suppress(OSError):
        found.write(run)
    return found


def nonce_of(run: RunDir) -> str:
    """Which worker the files in a run directory are of; empty when none was started."""
    identity, claim = Identity.read(run), read_json(run.claim) or {}
    return identity.nonce if identity else str(claim.get("nonce", ""))


def _as_said(said: Exit, step: int) -> End:
    return End(
        said.state, said.cause or _CAUSES[said.state], said.message, said.remedy, said.time, step, "", said.traceback
    )


def _gone(studio: Studio, run: RunDir, row: Run, step: int) -> End:
    """A worker that left no word: from what is known of its process, the surest evidence first."""
    workers.reap()  # it may have ended since the last look
    identity, claim, beat = Identity.read(run), read_json(run.claim) or {}, Beat.read(run)
    code = workers.ended_with(nonce_of(run))
    when = beat.time if beat else time.time()
    after = f"after step {step}" if step else "before its first step"
    words = f"The disk was so full that its worker could not say so: it ended {after}."
    full = End("failed", "disk", words, f"Free some space. {going_on(run)}", when, step, "")
    if identity is None:
        return full if code == DISK_FULL_STATUS else _never_started(code, time.time())
    last_word = rows.last_event(studio.database, run.id, "state", int(claim.get("seq", 0)))
    if last_word is not None and last_word.payload.get("state") in _CAUSES:
        state: Any = last_word.payload["state"]
        said = str(last_word.payload.get("message") or f"It was {state}.")
        cause: Any = last_word.payload.get("cause") or _CAUSES[state]
        return End(state, cause, said, "", last_word.time, step, "")
    if code == DISK_FULL_STATUS:
        return full
    if run.asked("killed"):
        grace = f"{studio.settings.stop_grace:.0f} seconds"
        words = f"It did not stop within {grace} of being asked, and was ended {after}."
        return End("stopped", "stopped", words, going_on(run), when, step, "")
    cause, words = _what_happened(identity, claim, code, beat.memory if beat else 0)
    return End("interrupted", cause, f"{words} {after}.", going_on(run), when, step, "")


def _never_started(code: int | None, when: float) -> End:
    how = "" if code is None else f": it was ended by {_name(-code)}" if code < 0 else f" (exit status {code})"
    remedy = "Look at the log of the run for the reason, then resume it."
    return End("failed", "never_started", f"Its worker never started{how}.", remedy, when, 0, "")


def _what_happened(identity: Identity, claim: dict[str, Any], code: int | None, memory: int) -> tuple[Cause, str]:
    """The cause, and a sentence that wants 'after step N' at its end. memory: bytes that it last told of."""
    if identity.boot_id != boot_id():
        if identity.host and identity.host != socket.gethostname():
            return "gone", f"It was at work on {identity.host} and is not known here: it stands as it was copied,"
        return "rebooted", "The machine was restarted, or lost power,"
    since = float(claim.get("time", identity.started))
    if code in (None, -signal.SIGKILL) and exit_evidence.named_by_kernel(identity.pid, since, workers.booted()):
        return "killed_for_memory", "The system ended it because memory ran out,"
    before, now = claim.get("oom_kills"), exit_evidence.oom_kills()
    rose = isinstance(before, int) and now is not None and now > before
    if code == -signal.SIGKILL and rose:
        return "killed_for_memory", "The system ended it because memory ran out,"
    if code is None and rose:
        return "killed_for_memory", "Most likely the system ended it because memory ran out: it ended a process,"
    if code == -signal.SIGKILL and now is None and memory > _FULL * ram.look().total:
        return "killed_for_memory", "It was killed with nearly all memory taken, most likely by the system,"
    if code is not None and -code in _OUTSIDE:
        return "killed", f"Someone or something killed its worker ({_name(-code)})"
    if code is not None and code < 0:
        return "error", f"Its worker crashed in a library ({_name(-code)})"
    if code is not None:
        return "gone", f"Its worker left without a word, with exit status {code},"
    if workers.reused(identity):
        return "gone", "Its worker is gone, and another process has its number now: it ended without a word"
    return "killed", "Its worker ended without a word: it was killed, or crashed,"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def going_on(run: RunDir) -> str:
    """What to do with a run that was cut short; the checkpoint is verified only when it is resumed."""
    steps = checkpoint_steps(run)
    if steps:
        return f"Resume it: it goes on from the checkpoint of step {steps[-1]}."
    return "No checkpoint was saved: resume it and it begins again."


def checkpoint_steps(run: RunDir) -> list[int]:
    """Steps of which a whole checkpoint lies in the run directory, ascending; not verified."""
    names = (path.parent.name.removeprefix("step-") for path in run.checkpoints.glob("step-*/MANIFEST.json"))
    return sorted(int(name) for name in names if name.isdigit())


def _less_memory(studio: Studio, run: RunDir) -> str:
    """What would save most memory for this very recipe; empty where it cannot be estimated any more."""
    try:
        recipe = Recipe.load(run.recipe)
        asked = estimates.question(studio, recipe)
        found = asked.footprint(recipe)
        changes = advice.as_text(advice.fixes(asked, found))
    except StudioError:
        return ""
    if not changes:
        return ""
    peak = f"Its peak is estimated at {found.total / 2**30:.1f} GiB."
    return f"{peak} Clone it and change: {'; or '.join(changes)}. Or free memory and resume it."


def resume_hint(state: str, steps: list[int]) -> str:
    """What going on would mean for a run in this state with whole-looking checkpoints at these steps."""
    if state == "completed":
        return "Finished; it can be trained further by epochs or steps." if steps else ""
    if steps:
        return f"It goes on from the checkpoint of step {steps[-1]}."
    return "It has no checkpoint: it begins again from the first step."
