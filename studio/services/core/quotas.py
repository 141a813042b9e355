"""How much one visitor of a hosted studio may use. At home, and for the admin of a hosted one, there are no limits.

What the files of a home do not tell by themselves, starts and tokens of a day, stands in usage/<owner>.json: one small
file an owner, so that emptying the trash gives no day back.
"""

import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from studio.errors import Conflict
from studio.rundir import read_json, write_json
from studio.services.core.identity import Visitor
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.store import datasets as dataset_rows
from studio.store import run_list
from studio.store import runs as rows

_F = TypeVar("_F", bound=Callable[..., Any])
_GIB = 2**30
_writing, _turn = threading.Lock(), threading.RLock()
_KEPT_SECONDS, _OWNERS = 10.0, 256


@dataclass(slots=True)
class _Counted:
    """Bytes of disk that each owner's things take, with when they were counted."""

    by_owner: dict[str, tuple[float, int]] = field(default_factory=dict)


class QuotaExceeded(Conflict):
    """A limit is reached; the message says which, and when or how there is room again."""


@dataclass(frozen=True, slots=True)
class Used:
    """What an owner uses: runs at work and waiting, bytes of disk, and of today runs started and tokens answered."""

    running: int
    queued: int
    storage: int
    starts: int
    tokens: int


def in_turn(act: _F) -> _F:
    """For what asks for a quota and then uses it up: one after the other, or two at once would both find room."""

    @functools.wraps(act)
    def one(studio: Studio, *given: Any, **more: Any) -> Any:
        with _turn if applies(studio) else contextlib.nullcontext():
            return act(studio, *given, **more)

    return cast("_F", one)


def applies(studio: Studio) -> bool:
    """Whether who asks is held to the quotas."""
    return studio.settings.hosted and studio.for_visitors and not studio.visitor.admin


def used(studio: Studio, owner: str = "") -> Used:
    """What an owner uses now; without one, who asks."""
    owner = owner or studio.owner
    mine = [row for row in rows.unfinished(studio.database) if row.owner == owner]
    waiting = sum(row.state == "queued" for row in mine)
    day = _day(read_json(_file(studio, owner)))
    taken = storage(studio, owner)
    return Used(len(mine) - waiting, waiting, taken, int(day["starts"]), int(day["tokens"]))


def storage(studio: Studio, owner: str) -> int:
    """Bytes of disk that an owner's runs (as counted last), datasets, exports and adapters take; counted again after a
    few seconds."""
    every, now = studio.state(_Counted).by_owner, time.monotonic()
    kept = every.get(owner)
    if kept is None or now - kept[0] > _KEPT_SECONDS:
        while len(every) >= _OWNERS:
            every.pop(next(iter(every)), None)
        kept = every[owner] = now, _count(studio, owner)
    return kept[1]


def count_again(studio: Studio) -> None:
    """What the asker keeps has changed by much: forget what was counted."""
    studio.state(_Counted).by_owner.pop(studio.owner, None)


def _count(studio: Studio, owner: str) -> int:
    found = sum(run_list.sums(studio.database, owner, trashed).bytes for trashed in (False, True))
    found += sum(row.size for row in dataset_rows.every(studio.database, [owner]))
    for root, told in ((studio.settings.exports, "export.json"), (studio.settings.adapters, "about.json")):
        for folder in root.iterdir():
            if (read_json(folder / told) or {}).get("owner") == owner:
                found += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return found


def check_start(studio: Studio) -> None:
    """Raise Full where who asks may not put one more run into the queue."""
    if not applies(studio):
        return
    settings, line = studio.settings, rows.waiting(studio.database)
    waiting, own = len(line), sum(row.owner == studio.owner for row in line)
    starts = int(_day(read_json(_file(studio, studio.owner)))["starts"])
    if settings.queue_most and waiting >= settings.queue_most:
        raise QuotaExceeded(f"The queue is full: {waiting} runs wait. Try again when some of them are over.")
    if settings.quota_queued and own >= settings.quota_queued:
        raise QuotaExceeded(
            f"{_runs(own)} of yours wait already, and {settings.quota_queued} may. Wait until one begins, or "
            "cancel one."
        )
    if settings.quota_starts_day and starts >= settings.quota_starts_day:
        raise QuotaExceeded(
            f"You have started {_runs(starts)} today, which is all that one visitor may here. Go on after "
            f"midnight UTC, or {_ELSEWHERE}"
        )
    check_storage(studio)


def check_work(studio: Studio, at_work: Sequence[Any]) -> None:
    """Raise Full where who asks may not begin another export, evaluation or combination. at_work: states of those."""
    most = studio.settings.quota_running
    busy = sum(state not in FINAL for state in at_work)
    if applies(studio):
        if most and busy >= most:
            raise QuotaExceeded(
                f"{busy} of yours is being made, and {most} may be at a time. Wait until it is done, or cancel it."
            )
        check_storage(studio)


def check_storage(studio: Studio) -> None:
    """Raise Full where what who asks keeps takes all the disk that one visitor may."""
    most = studio.settings.quota_storage_gb
    if applies(studio) and most:
        taken = _count(studio, studio.owner)
        if taken >= most * _GIB:
            raise QuotaExceeded(
                f"What you keep here takes {taken / _GIB:.1f} GiB, and {most:g} GiB is what one visitor may. Delete "
                "runs and exports (the trash counts too), then try again."
            )


def check_chat(studio: Studio) -> None:
    """Raise Full where who asks was answered enough today."""
    most = studio.settings.quota_chat_tokens_day
    if applies(studio) and most and int(_day(read_json(_file(studio, studio.owner)))["tokens"]) >= most:
        raise QuotaExceeded(
            f"You were answered {most:,} tokens today, which is all that one visitor is here. Go on after midnight "
            f"UTC, or {_ELSEWHERE}"
        )


def note(studio: Studio, visitor: Visitor, *, starts: int = 0, tokens: int = 0) -> None:
    """Take down what someone began or was answered; of a studio with visitors only."""
    if not studio.for_visitors:
        return
    path = _file(studio, visitor.owner)
    with _writing:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        day = _day(read_json(path))
        fresh = {"owner": visitor.owner, "name": visitor.name, "kind": visitor.kind, "seen": time.time()}
        write_json(path, day | fresh | {"starts": day["starts"] + starts, "tokens": day["tokens"] + tokens})


def noted(studio: Studio) -> list[dict[str, Any]]:
    """What was taken down of each owner, whoever was seen last first; for the admin's view."""
    folder = studio.settings.home / "usage"
    found = [_day(read_json(path)) for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted((one for one in found if one.get("owner")), key=lambda one: -float(one.get("seen", 0)))


_ELSEWHERE = "duplicate this studio: your own has no such limit."


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _day(told: dict[str, Any] | None) -> dict[str, Any]:
    """What was noted, with the counts of today."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    told = told or {}
    if told.get("day") != today:
        told = told | {"day": today, "starts": 0, "tokens": 0}
    return {"starts": 0, "tokens": 0, **told}


def _file(studio: Studio, owner: str) -> Path:
    return studio.settings.home / "usage" / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"
