"""For the admin of a studio that others reach: who uses what, and what of theirs is stopped or cleared away.

An admin is told how much there is of which kind, never what it is called. What this does not do: end or delete anything
by itself; each noun does, in the visitor's name, by the same doors as for its owner and with their reasons to refuse.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from studio.errors import Conflict, NotFound
from studio.services.chat import chat, comparisons, votes
from studio.services.core import quotas
from studio.services.core.identity import Visitor, acting
from studio.services.core.quotas import Used
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.evals import evaluations, prompt_sets
from studio.services.exports import exports
from studio.services.models import adapters
from studio.services.runs import disk_usage, runs, trash


@dataclass(frozen=True, slots=True)
class Use:
    """What one visitor uses. key: how the admin names them; nothing that they own is told."""

    key: str
    name: str
    kind: str
    seen: float
    used: Used


@dataclass(slots=True)
class Sum:
    """How many of each kind were stopped or cleared away, or would be, and their bytes; kept: how many were not."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    kept: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Thing:
    """One thing of a visitor's, or `count` in one. over: nothing is at work on it, or needs it."""

    kind: str
    id: str
    path: Path
    over: bool
    delete: Callable[[Studio, str], object]
    cancel: Callable[[Studio, str], object] | None = None
    count: int = 1

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else disk_usage.taken(self.path)


def everyone(studio: Studio) -> list[Use]:
    """Who uses what, whoever was here last first; for an admin alone."""
    _only_admins(studio)
    return [
        Use(_key(told["owner"]), str(told.get("name") or ""), str(told.get("kind")), float(told.get("seen", 0)),
            quotas.used(studio, str(told["owner"])))
        for told in quotas.noted(studio)
    ]  # fmt: skip


def stop(studio: Studio, key: str) -> Sum:
    """End all of a visitor's that is at work or waits: runs, exports, evaluations, combinations, questions."""
    whose = _named(studio, key)
    with acting(whose):
        found = Sum(whose.name)
        for thing in _things(studio):
            if not thing.over and thing.cancel is not None:
                with contextlib.suppress(Conflict, NotFound):  # it ended meanwhile
                    thing.cancel(studio, thing.id)
                    found.counts[thing.kind] += thing.count
        if questions := chat.stop_all(studio):
            found.counts["question"] = questions
        return found


def would_clear(studio: Studio, key: str) -> Sum:
    """What `clear` would delete now, and what it would leave."""
    whose = _named(studio, key)
    with acting(whose):
        found = Sum(whose.name)
        for thing in _things(studio):
            if thing.over:
                found.counts[thing.kind] += thing.count
                found.bytes += thing.size
            else:
                found.kept[thing.kind] += thing.count
        return found


def clear(studio: Studio, key: str) -> Sum:
    """Delete for good all of a visitor's that is over and that nothing needs which stays."""
    whose = _named(studio, key)
    with acting(whose):
        return _clear(studio, whose.name)


@quotas.in_turn
def _clear(studio: Studio, name: str) -> Sum:
    """In turn, so that nothing begins meanwhile with what goes."""
    found = Sum(name)
    for thing in _things(studio):
        size = thing.size
        if thing.over:
            with contextlib.suppress(Conflict, NotFound):
                thing.delete(studio, thing.id)
                found.counts[thing.kind] += thing.count
                found.bytes += size
                continue
        found.kept[thing.kind] += thing.count
    quotas.count_again(studio)
    return found


def _things(studio: Studio) -> Iterator[_Thing]:
    """All that the asker owns, in the order in which it can go: what was made of something before that."""
    settings, going = studio.settings, set[Path]()
    for one in evaluations.list_evaluations(studio):
        path = settings.evaluations / one.id
        going |= {path} if one.final else set()
        yield _Thing("evaluation", one.id, path, one.final, evaluations.delete, evaluations.cancel)
    for export in exports.list_exports(studio):
        over, path = export.state in FINAL, settings.exports / export.id
        yield _Thing("export", export.id, path, over, exports.delete, exports.cancel)
    for key in comparisons.mine(studio):
        yield _Thing("comparison", key, settings.home / "comparisons" / f"{key}.json", True, comparisons.delete)
    for path in votes.files(studio):
        lines = len(path.read_bytes().splitlines())
        yield _Thing("vote", path.name, path, True, votes.delete, count=lines)
    for run in [*runs.list_runs(studio), *trash.contents(studio)]:
        path = settings.runs / run.id
        going |= {path} if run.final else set()
        yield _Thing("run", run.id, path, run.final, _throw_away, runs.cancel)
    for made in adapters.list_adapters(studio):
        over, path = made.state in FINAL and not _read(studio, made.id), settings.adapters / made.id
        going |= {path} if over else set()
        cancel = None if made.state in FINAL else adapters.cancel
        yield _Thing("adapter", made.id, path, over, adapters.remove, cancel)
    for kept in prompt_sets.list_sets(studio):
        if kept.id != prompt_sets.GENERAL:
            yield _Thing("prompt set", kept.id, settings.prompts / kept.id, True, prompt_sets.delete)
    users = datasets.users(studio)
    for info in datasets.list_datasets(studio):
        if datasets.owner_of(studio, info.id) == studio.owner:
            over = users.get(info.id, set()) <= going
            yield _Thing("dataset", info.id, settings.datasets / info.id, over, datasets.delete)


def _throw_away(studio: Studio, run_id: str) -> None:
    trash.throw(studio, run_id)
    if not trash.empty(studio, [run_id]).deleted:
        raise Conflict("It is in use.")


def _read(studio: Studio, adapter_id: str) -> bool:
    """Whether something is being made of an adapter of the store."""
    at_work = [one.state for one in exports.list_exports(studio, adapter_id)]
    at_work += [one.state for one in evaluations.list_evaluations(studio, adapter_id)]
    at_work += [
        one.state
        for one in adapters.list_adapters(studio)
        if adapter_id in {parent.get("id") for parent in one.origin.get("parents", [])}
    ]
    return any(state not in FINAL for state in at_work)


def _named(studio: Studio, key: str) -> Visitor:
    _only_admins(studio)
    found = next((told for told in quotas.noted(studio) if _key(str(told["owner"])) == key), None)
    if found is None:
        raise NotFound("There is no such visitor any more.")
    return Visitor(str(found["owner"]), str(found.get("name") or ""), found.get("kind", "account"))


def _only_admins(studio: Studio) -> None:
    if not studio.visitor.admin:
        raise NotFound("There is nothing here.")


def _key(owner: str) -> str:
    """An owner without their secret: the number of an anonymous one is what their cookie says."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]
