"""Prompt sets: the bundled general set, and a person's own, from a file or typed.

The held-out rows of a run's dataset are also a set; it belongs to the run (evaluations.py).
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio import resources
from studio.dataset.record import Record, shown
from studio.dataset.store import iter_records
from studio.errors import BadInput, NotFound
from studio.evaluation import prompts as files
from studio.evaluation.prompts import Check, Prompt
from studio.rundir import read_json, vanish, whole_folder, write_json, write_text
from studio.services.core import jobs
from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets
from studio.services.data.checks import Checked, Options

GENERAL = "general"
HELD_OUT = "held-out"
MOST = 2_000  # prompts per set: every model answers each of them
_ALONE = ("prompt", "question", "instruction", "input")  # columns that make a set without a column of answers


@dataclass(frozen=True, slots=True)
class SetInfo:
    """A prompt set as lists show it. with_reference and with_check: how many prompts have one."""

    id: str
    name: str
    prompts: int
    with_reference: int
    with_check: int
    source: str
    created: float


def list_sets(studio: Studio) -> list[SetInfo]:
    """All sets: a person's own, newest first, and the general one."""
    own = []
    for path in studio.settings.prompts.iterdir():
        value = read_json(path / "set.json") if not path.name.startswith(".") else None
        if value and value.pop("owner", None) == studio.owner:
            own.append(SetInfo(id=path.name, **value))
    return [*sorted(own, key=lambda item: item.created, reverse=True), general()]


def general() -> SetInfo:
    """The bundled set, which shows whether a model forgot something."""
    return _info(GENERAL, GENERAL, files.load(_general_file()), "bundled", 0.0)


def get(studio: Studio, key: str) -> SetInfo:
    """The set with this name or id; raises NotFound that lists the known ones."""
    infos = list_sets(studio)
    match = next((item for item in infos if key in (item.id, item.name)), None)
    if match is None:
        known = ", ".join(item.name for item in infos)
        raise NotFound(f"There is no prompt set {key!r} (known: {HELD_OUT}, {known}).")
    return match


def prompts_of(studio: Studio, key: str) -> list[Prompt]:
    """The prompts of a set."""
    info = get(studio, key)
    path = _general_file() if info.id == GENERAL else studio.settings.prompts / info.id / "prompts.jsonl"
    return files.load(path)


def delete(studio: Studio, key: str) -> SetInfo:
    """Delete one's own set. Evaluations have a copy of its prompts and stay."""
    info = get(studio, key)
    if info.id == GENERAL:
        raise BadInput("The general set comes with the studio and cannot be deleted.")
    vanish(studio.settings.prompts / info.id)
    return info


def add_typed(studio: Studio, text: str, name: str = "") -> SetInfo:
    """Add a set of prompts typed one per line, as `prompt => expected answer` (evaluation/prompts.py)."""
    return _keep(studio, files.typed(text), name or "my prompts", "typed")


def adding(
    studio: Studio, path: str | Path, name: str = "", options: Options | None = None
) -> Generator[Progress, None, SetInfo]:
    """Add a set from a file, read and checked like a dataset; answers in it become references. Raises BadInput."""
    checked = yield from checks.checking(studio, path, options)
    try:
        if checked.report.format is None:
            checked = yield from _without_answers(studio, checked, options or Options())
        prompts = []
        for chunk in iter_records(checks.folder_of(studio, checked.token)):
            prompts += [of_record(record) for record in chunk]
    finally:
        checks.discard(studio, checked.token)
    return _keep(studio, prompts, name or datasets.name_for(str(path)), Path(path).name)


def add(
    studio: Studio,
    path: str | Path,
    name: str = "",
    options: Options | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> SetInfo:
    """Run `adding` to its end."""
    return jobs.drive(adding(studio, path, name, options), progress)


def of_record(record: Record) -> Prompt:
    """An example as a prompt: its last answer becomes the reference; plain text is the prompt as a whole.

    An answer that calls functions is checked for the same calls.
    """
    if not record.messages:
        return files.of_text(record.text)
    *before, last = record.messages
    if last["role"] != "assistant":
        return Prompt(tuple(record.messages), tools=tuple(record.tools))
    calls = tuple(json.dumps(call["function"], ensure_ascii=False) for call in last.get("tool_calls", ()))
    check = Check("tool_call", calls) if calls else None
    return Prompt(tuple(before), shown(last), check, tools=tuple(record.tools))


def _without_answers(studio: Studio, checked: Checked, options: Options) -> Generator[Progress, None, Checked]:
    """Check a file again as one that contains only prompts."""
    column = next((name for name in _ALONE if name in checked.report.choices), None)
    if options.mapping or column is None:
        raise checks.needs_mapping(checked)
    again = yield from checks.checking(
        studio, checked.path, replace(options, format="mapped", mapping={"text": column})
    )
    checks.discard(studio, checked.token)
    return again


def _keep(studio: Studio, prompts: Sequence[Prompt], name: str, source: str) -> SetInfo:
    if not prompts:
        raise BadInput(f"There is no prompt in {source}.")
    if len(prompts) > MOST:
        raise BadInput(f"{source} has {len(prompts):,} prompts; a set has at most {MOST:,}. Take a part of it.")
    set_id = secrets.token_hex(8)
    info = _info(set_id, _free_name(studio, name), prompts, source, time.time())
    with whole_folder(studio.settings.prompts / set_id) as folder:
        write_text(folder / "prompts.jsonl", files.dump(prompts))
        values = {field: getattr(info, field) for field in SetInfo.__slots__ if field != "id"}
        write_json(folder / "set.json", values | {"owner": studio.owner})
    return info


def _info(set_id: str, name: str, prompts: Sequence[Prompt], source: str, created: float) -> SetInfo:
    references = sum(bool(prompt.reference) for prompt in prompts)
    return SetInfo(
        set_id, name, len(prompts), references, sum(prompt.check is not None for prompt in prompts), source, created
    )


def _free_name(studio: Studio, wanted: str) -> str:
    clean = re.sub(r"[^\w .-]+", "-", wanted).strip()[:80] or "prompts"
    taken = {HELD_OUT, *(item.name for item in list_sets(studio))}
    if clean not in taken:
        return clean
    return next(name for count in range(2, len(taken) + 3) if (name := f"{clean}-{count}") not in taken)


def _general_file() -> Path:
    return resources.data() / "prompts" / "general.jsonl"
