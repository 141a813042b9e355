"""Administration of a shared studio: what each visitor uses, and stopping or deleting it.

An admin sees how much there is of each kind, never its names. This module stops or deletes nothing itself: it calls the
services as the visitor, with the same checks and refusals as for the owner.
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
    """Usage of one visitor. key: the visitor's identifier for the admin; it reveals nothing that they own."""

    key: str
    name: str
    kind: str
    seen: float
    used: Used


@dataclass(slots=True)
class Sum:
    """Counts by kind of what was, or would be, stopped or deleted, with their bytes; kept: counts of what was not."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    kept: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Thing:
    """One item of a visitor, or a file with `count` items. over: nothing works on it or needs it."""

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
    """Usage of each visitor, most recently seen first; for admins only."""
    _only_admins(studio)
    return [
        Use(_key(record["owner"]), str(record.get("name") or ""), str(record.get("kind")),
            float(record.get("seen", 0)), quotas.used(studio, str(record["owner"])))
        for record in quotas.noted(studio)
    ]  # fmt: skip


def stop(studio: Studio, key: str) -> Sum:
    """Stop everything of a visitor that works or waits: runs, exports, evaluations, combinations, questions."""
    visitor = _named(studio, key)
    with acting(visitor):
        result = Sum(visitor.name)
        for thing in _things(studio):
            if not thing.over and thing.cancel is not None:
                with contextlib.suppress(Conflict, NotFound):  # it ended meanwhile
                    thing.cancel(studio, thing.id)
                    result.counts[thing.kind] += thing.count
        if questions := chat.stop_all(studio):
            result.counts["question"] = questions
        return result


def would_clear(studio: Studio, key: str) -> Sum:
    """Preview of `clear`: what it would delete now, and what it would keep."""
    visitor = _named(studio, key)
    with acting(visitor):
        result = Sum(visitor.name)
        for thing in _things(studio):
            if thing.over:
                result.counts[thing.kind] += thing.count
                result.bytes += thing.size
            else:
                result.kept[thing.kind] += thing.count
        return result


def clear(studio: Studio, key: str) -> Sum:
    """Permanently delete everything of a visitor that is over and not needed by anything that is kept."""
    visitor = _named(studio, key)
    with acting(visitor):
        return _clear(studio, visitor.name)


@quotas.in_turn
def _clear(studio: Studio, name: str) -> Sum:
    """Serialised with quota checks, so that nothing starts to use what is being deleted."""
    result = Sum(name)
    for thing in _things(studio):
        size = thing.size
        if thing.over:
            with contextlib.suppress(Conflict, NotFound):
                thing.delete(studio, thing.id)
                result.counts[thing.kind] += thing.count
                result.bytes += size
                continue
        result.kept[thing.kind] += thing.count
    quotas.count_again(studio)
    return result


def _things(studio: Studio) -> Iterator[_Thing]:
    """Everything the current visitor owns, in deletion order: results before what they were made from."""
    settings, deletable = studio.settings, set[Path]()
    for evaluation in evaluations.list_evaluations(studio):
        path = settings.evaluations / evaluation.id
        deletable |= {path} if evaluation.final else set()
        yield _Thing("evaluation", evaluation.id, path, evaluation.final, evaluations.delete, evaluations.cancel)
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
        deletable |= {path} if run.final else set()
        yield _Thing("run", run.id, path, run.final, _throw_away, runs.cancel)
    for adapter in adapters.list_adapters(studio):
        over, path = adapter.state in FINAL and not _in_use(studio, adapter.id), settings.adapters / adapter.id
        deletable |= {path} if over else set()
        cancel = None if adapter.state in FINAL else adapters.cancel
        yield _Thing("adapter", adapter.id, path, over, adapters.remove, cancel)
    for prompt_set in prompt_sets.list_sets(studio):
        if prompt_set.id != prompt_sets.GENERAL:
            yield _Thing("prompt set", prompt_set.id, settings.prompts / prompt_set.id, True, prompt_sets.delete)
    users = datasets.users(studio)
    for info in datasets.list_datasets(studio):
        if datasets.owner_of(studio, info.id) == studio.owner:
            over = users.get(info.id, set()) <= deletable
            yield _Thing("dataset", info.id, settings.datasets / info.id, over, datasets.delete)


def _throw_away(studio: Studio, run_id: str) -> None:
    trash.throw(studio, run_id)
    if not trash.empty(studio, [run_id]).deleted:
        raise Conflict("It is in use.")


def _in_use(studio: Studio, adapter_id: str) -> bool:
    """Whether an export, evaluation or combination of a stored adapter is in progress."""
    states = [export.state for export in exports.list_exports(studio, adapter_id)]
    states += [evaluation.state for evaluation in evaluations.list_evaluations(studio, adapter_id)]
    states += [
        adapter.state
        for adapter in adapters.list_adapters(studio)
        if adapter_id in {parent.get("id") for parent in adapter.origin.get("parents", [])}
    ]
    return any(state not in FINAL for state in states)


def _named(studio: Studio, key: str) -> Visitor:
    _only_admins(studio)
    record = next((record for record in quotas.noted(studio) if _key(str(record["owner"])) == key), None)
    if record is None:
        raise NotFound("There is no such visitor any more.")
    return Visitor(str(record["owner"]), str(record.get("name") or ""), record.get("kind", "account"))


def _only_admins(studio: Studio) -> None:
    if not studio.visitor.admin:
        raise NotFound("There is nothing here.")


def _key(owner: str) -> str:
    """A hash of the owner: the id of an anonymous owner is the secret in their cookie."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]
