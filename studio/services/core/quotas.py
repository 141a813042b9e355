"""Quotas: how much one visitor of a hosted studio may use. At home, and for an admin, there are no limits.

Starts and tokens of the day, which cannot be derived from other files of the home, are counted in usage/<owner>.json:
one small file per owner, so that emptying the trash does not reset the count.
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
    """Bytes of disk used by each owner, with the time at which they were counted."""

    by_owner: dict[str, tuple[float, int]] = field(default_factory=dict)


class QuotaExceeded(Conflict):
    """A limit is reached; the message names it, and says when or how there is room again."""


@dataclass(frozen=True, slots=True)
class Used:
    """Usage of one owner: runs at work and waiting, bytes of disk, and runs started and tokens answered today."""

    running: int
    queued: int
    storage: int
    starts: int
    tokens: int


def in_turn(act: _F) -> _F:
    """Decorator: run functions that check a quota and then use it one at a time, so that two do not both find room."""

    @functools.wraps(act)
    def serialized(studio: Studio, *args: Any, **kwargs: Any) -> Any:
        with _turn if applies(studio) else contextlib.nullcontext():
            return act(studio, *args, **kwargs)

    return cast("_F", serialized)


def applies(studio: Studio) -> bool:
    """Whether quotas apply to the current visitor."""
    return studio.settings.hosted and studio.for_visitors and not studio.visitor.admin


def used(studio: Studio, owner: str = "") -> Used:
    """Current usage of an owner, by default of the current visitor."""
    owner = owner or studio.owner
    own = [row for row in rows.unfinished(studio.database) if row.owner == owner]
    waiting = sum(row.state == "queued" for row in own)
    day = _day(read_json(_file(studio, owner)))
    stored = storage(studio, owner)
    return Used(len(own) - waiting, waiting, stored, int(day["starts"]), int(day["tokens"]))


def storage(studio: Studio, owner: str) -> int:
    """Bytes of disk used by an owner's runs (as last measured), datasets, exports and adapters.

    Cached for a few seconds.
    """
    counts, now = studio.state(_Counted).by_owner, time.monotonic()
    counted = counts.get(owner)
    if counted is None or now - counted[0] > _KEPT_SECONDS:
        while len(counts) >= _OWNERS:
            counts.pop(next(iter(counts)), None)
        counted = counts[owner] = now, _count(studio, owner)
    return counted[1]


def count_again(studio: Studio) -> None:
    """Discard the cached storage of the current visitor, after a large change."""
    studio.state(_Counted).by_owner.pop(studio.owner, None)


def _count(studio: Studio, owner: str) -> int:
    total = sum(run_list.sums(studio.database, owner, trashed).bytes for trashed in (False, True))
    total += sum(row.size for row in dataset_rows.every(studio.database, [owner]))
    for root, about_file in ((studio.settings.exports, "export.json"), (studio.settings.adapters, "about.json")):
        for folder in root.iterdir():
            if (read_json(folder / about_file) or {}).get("owner") == owner:
                total += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return total


def check_start(studio: Studio) -> None:
    """Raise QuotaExceeded if the current visitor may not put another run into the queue."""
    if not applies(studio):
        return
    settings, queue = studio.settings, rows.waiting(studio.database)
    waiting, own = len(queue), sum(row.owner == studio.owner for row in queue)
    starts = int(_day(read_json(_file(studio, studio.owner)))["starts"])
    if settings.queue_most and waiting >= settings.queue_most:
        raise QuotaExceeded(f"The queue is full: {waiting} runs wait. Try again when some of them are over.")
    if settings.quota_queued and own >= settings.quota_queued:
        raise QuotaExceeded(
            f"You already have {_runs(own)} waiting, and the limit is {settings.quota_queued}. Wait until one "
            "starts, or cancel one."
        )
    if settings.quota_starts_day and starts >= settings.quota_starts_day:
        raise QuotaExceeded(
            f"You have started {_runs(starts)} today, which is the daily limit for one visitor. Continue after "
            f"midnight UTC, or {_ELSEWHERE}"
        )
    check_storage(studio)


def check_work(studio: Studio, at_work: Sequence[Any]) -> None:
    """Raise QuotaExceeded if the current visitor may not begin another export, evaluation or combination.

    at_work: states of those that exist.
    """
    most = studio.settings.quota_running
    busy = sum(state not in FINAL for state in at_work)
    if applies(studio):
        if most and busy >= most:
            raise QuotaExceeded(
                f"You already have {busy} in progress, and the limit is {most} at a time. Wait until it is done, or "
                "cancel it."
            )
        check_storage(studio)


def check_storage(studio: Studio) -> None:
    """Raise QuotaExceeded if the current visitor has used up their disk space."""
    most = studio.settings.quota_storage_gb
    if applies(studio) and most:
        stored = _count(studio, studio.owner)
        if stored >= most * _GIB:
            raise QuotaExceeded(
                f"Your files take {stored / _GIB:.1f} GiB, and the limit for one visitor is {most:g} GiB. Delete "
                "runs and exports (the trash counts too), then try again."
            )


def check_chat(studio: Studio) -> None:
    """Raise QuotaExceeded if the current visitor has used up the answer tokens of the day."""
    most = studio.settings.quota_chat_tokens_day
    if applies(studio) and most and int(_day(read_json(_file(studio, studio.owner)))["tokens"]) >= most:
        raise QuotaExceeded(
            f"You have received {most:,} tokens of answers today, which is the daily limit for one visitor. "
            f"Continue after midnight UTC, or {_ELSEWHERE}"
        )


def note(studio: Studio, visitor: Visitor, *, starts: int = 0, tokens: int = 0) -> None:
    """Record runs started and tokens answered for a visitor; does nothing in a single-user studio."""
    if not studio.for_visitors:
        return
    path = _file(studio, visitor.owner)
    with _writing:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        day = _day(read_json(path))
        update = {"owner": visitor.owner, "name": visitor.name, "kind": visitor.kind, "seen": time.time()}
        write_json(path, day | update | {"starts": day["starts"] + starts, "tokens": day["tokens"] + tokens})


def noted(studio: Studio) -> list[dict[str, Any]]:
    """The usage record of each owner, most recently seen first; for the admin page."""
    folder = studio.settings.home / "usage"
    records = [_day(read_json(path)) for path in folder.glob("*.json")] if folder.is_dir() else []
    owned = [record for record in records if record.get("owner")]
    return sorted(owned, key=lambda record: -float(record.get("seen", 0)))


_ELSEWHERE = "duplicate this studio: your own has no such limit."


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _day(record: dict[str, Any] | None) -> dict[str, Any]:
    """A usage record with the counts of today, reset if the record is of another day."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    record = record or {}
    if record.get("day") != today:
        record = record | {"day": today, "starts": 0, "tokens": 0}
    return {"starts": 0, "tokens": 0, **record}


def _file(studio: Studio, owner: str) -> Path:
    return studio.settings.home / "usage" / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"
