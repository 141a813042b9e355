"""Evaluations: did the model get better? Start one, follow it, read its result.

Each has its own directory (evaluation/files.py) and waits for the device in the order of requests
(evaluation_queue.py). Nothing of it is in the database.
"""

import json
import re
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from studio.dataset.record import Record
from studio.errors import BadInput, Conflict, NotFound
from studio.evaluation import files
from studio.evaluation.files import Column, Order, PromptSet, Result
from studio.evaluation.grades import mark_of
from studio.evaluation.prompts import Prompt
from studio.evaluation.scores import BASE, Row, Score, SetScores, describe, evidence
from studio.rundir import RunDir, create, read_json
from studio.services.core import access, identity, jobs, quotas
from studio.services.core.jobs import Job, Progress
from studio.services.core.states import State
from studio.services.core.studio import Studio
from studio.services.evals import evaluation_queue, prompt_sets
from studio.services.evals.prompt_sets import GENERAL, HELD_OUT
from studio.services.models import models, trained_weights
from studio.services.models.trained_weights import Source
from studio.services.runs import ends, runs

__all__ = [
    "BASE",
    "Result",
    "Row",
    "Score",
    "SetScores",
    "describe",
    "evidence",
    "mark_of",
]  # for pages, which import services only
ADAPTED = "adapted"
LIMIT = 200
_MOST_COLUMNS = 6
_GENERAL_TOKENS = 64
_POLL = 0.25


@dataclass(frozen=True, slots=True)
class EvaluationInfo:
    """An evaluation as lists show it; times in seconds since the epoch. columns and sets: titles by name."""

    id: str
    run: str
    name: str
    state: State
    doing: str
    done: int
    of: int
    seconds_left: float | None
    created: float
    message: str
    remedy: str
    columns: dict[str, str]
    sets: dict[str, str]
    path: str
    final: bool


@quotas.in_turn
def start(
    studio: Studio,
    model: str,
    sets: Sequence[str] = (),
    against: Sequence[str] = (),
    limit: int = LIMIT,
) -> EvaluationInfo:
    """Queue an evaluation for the device.

    model, against: sources (runs, checkpoints as RUN@STEP, adapters of the store) on the same base. sets: names of
    prompt sets; without any, the dataset's held-out rows and the general set. limit: prompts per set at most, spread
    evenly over it.
    """
    if not 1 <= limit <= prompt_sets.MOST:
        raise BadInput(f"The number of prompts per set must be from 1 to {prompt_sets.MOST:,}, not {limit:,}.")
    columns, parts = _columns(studio, [model, *against])
    quotas.check_work(studio, [item.state for item in list_evaluations(studio)])
    first = parts[0]
    recipe, run = first.recipe, first.run
    held_out = spread(trained_weights.held_out(studio, first.id), limit)
    wanted = list(dict.fromkeys(sets)) or [*([HELD_OUT] if held_out else []), GENERAL]
    chosen = [_set(studio, key, held_out, limit) for key in wanted]
    dataset = read_json(run.dataset) or {}
    order = Order(
        run_id=first.id,
        run_name=first.name,
        owner=studio.owner,
        created=time.time(),
        model=recipe.model.model,
        model_folder=str(models.folder_of(studio, recipe.model.model)),
        dtype=models.answers_in(studio, recipe.model.model, recipe.model.dtype),
        dataset=str(dataset.get("name", "")),
        dataset_folder=str(studio.settings.datasets / str(dataset.get("id"))),
        seed=recipe.schedule.seed,
        sets=[item for item, _ in chosen],
        columns=columns,
        rows=[record.row for record in held_out] if HELD_OUT in wanted else [],
    )
    evaluation_id = identity.new_id(studio)
    create(
        studio.settings.evaluations,
        evaluation_id,
        {
            "prompts.jsonl": files.dump_prompts((item.name, prompts) for item, prompts in chosen),
            files.ORDER: json.dumps(asdict(order), ensure_ascii=False, indent=1) + "\n",
        },
    )
    studio.look()
    return get(studio, evaluation_id)


def spread(items: list[Record], limit: int) -> list[Record]:
    """At most `limit` of the items, spread evenly from first to last."""
    if len(items) <= limit:
        return items
    return [items[place * len(items) // limit] for place in range(limit)]


def _set(studio: Studio, key: str, held_out: list[Record], limit: int) -> tuple[PromptSet, list[Prompt]]:
    if key == HELD_OUT:
        asked = [_with_row(prompt_sets.of_record(record), record.row) for record in held_out if record.messages]
        if not held_out:
            raise BadInput(
                "This run held no rows out of its training, so there is nothing to evaluate it on. Choose a prompt set."
            )
        return PromptSet(HELD_OUT, "Held-out examples", "held-out", len(asked)), asked
    info = prompt_sets.get(studio, key)
    prompts = prompt_sets.prompts_of(studio, info.id)
    if info.id == GENERAL:
        return PromptSet(GENERAL, "General prompts", "general", len(prompts), _GENERAL_TOKENS), prompts
    few = prompts if len(prompts) <= limit else [prompts[n * len(prompts) // limit] for n in range(limit)]
    return PromptSet(info.id, info.name, "own", len(few)), few


def _with_row(prompt: Prompt, row: int) -> Prompt:
    return replace(prompt, row=row)


def _columns(studio: Studio, keys: Sequence[str]) -> tuple[list[Column], list[Source]]:
    """The columns of an evaluation (the base, then each requested source), and the sources."""
    if len(keys) >= _MOST_COLUMNS:
        raise BadInput(f"At most {_MOST_COLUMNS - 1} runs and checkpoints can be evaluated together.")
    columns: list[Column] = []
    parts: list[Source] = []
    for number, key in enumerate(keys):
        source = trained_weights.find(studio, key, newest=False)
        if parts and source.model != parts[0].model:
            raise BadInput(
                f"{source.name} was trained on {source.model} and {parts[0].name} on {parts[0].model}: only runs over "
                "the same base can be evaluated together."
            )
        parts.append(source)
        name = ADAPTED if number == 0 else f"other{number}"
        columns.append(Column(name, source.title, str(source.folder), source.recipe.data.model_dump()))
    return [Column(BASE, parts[0].model, "", columns[0].data), *columns], parts


def steps(studio: Studio, run_id: str) -> list[int]:
    """Steps of a run's checkpoints that can be evaluated."""
    return ends.checkpoint_steps(studio.run_dir(runs.get(studio, run_id).id))


def list_evaluations(studio: Studio, run_id: str | None = None) -> list[EvaluationInfo]:
    """Evaluations, newest first; with run_id, only those with a column of that run or adapter."""
    studio.refresh()
    infos = []
    for path in studio.settings.evaluations.iterdir():
        if path.name.startswith("."):
            continue
        try:
            order = Order.read(path)
        except BadInput:
            continue  # not an evaluation, or not readable any more
        places = {_run_of(column) for column in order.columns}
        mine = run_id is None or places & {
            str(root / run_id) for root in (studio.settings.runs, studio.settings.adapters)
        }
        if order.owner == studio.owner and (mine or order.run_id == run_id):
            infos.append(_info(studio, RunDir(path), order))
    return sorted(infos, key=lambda item: item.created, reverse=True)


def _run_of(column: Column) -> str:
    """The run directory that contains a column's folder."""
    folder = Path(column.folder)
    return str(folder.parents[1] if folder.name.startswith("step-") else folder.parent)


def get(studio: Studio, evaluation_id: str) -> EvaluationInfo:
    """One evaluation by its id or id prefix."""
    return _info(studio, *_find(studio, evaluation_id))


def folder_of(studio: Studio, evaluation_id: str) -> RunDir:
    """The directory of an evaluation that the asker owns."""
    return _find(studio, evaluation_id)[0]


def _find(studio: Studio, key: str) -> tuple[RunDir, Order]:
    if re.fullmatch(r"[0-9a-f-]{1,40}", key):
        for path in sorted(studio.settings.evaluations.glob(f"{key}*")):
            try:
                order = Order.read(path)
            except BadInput:
                continue  # unreadable: its owner is unknown
            if order.owner == studio.owner:
                return RunDir(path), order
    raise NotFound(f"There is no evaluation {key!r}. See them with: studio evaluations")


def _info(studio: Studio, folder: RunDir, order: Order, job: Job | None = None) -> EvaluationInfo:
    job = job or evaluation_queue.job_of(folder).look()
    return EvaluationInfo(
        id=folder.id,
        run=order.run_id,
        name=order.run_name,
        state=job.state,
        doing=job.progress.doing,
        done=job.progress.done,
        of=job.progress.of,
        seconds_left=job.seconds_left,
        created=order.created,
        message=access.for_reader(studio, job.message),
        remedy=access.for_reader(studio, job.remedy),
        columns={column.name: column.title for column in order.columns},
        sets={prompt_set.name: prompt_set.title for prompt_set in order.sets},
        path=str(folder.path),
        final=job.final,
    )


def following(studio: Studio, evaluation_id: str) -> Generator[Progress, None, EvaluationInfo]:
    """Yield an evaluation's progress until it is over, then return it. Closing this does not stop the evaluation."""

    def find() -> tuple[EvaluationInfo, Job]:
        studio.refresh()
        folder, order = _find(studio, evaluation_id)
        job = evaluation_queue.job_of(folder).look()
        return _info(studio, folder, order, job), job

    return jobs.following(find, _POLL)


def cancel(studio: Studio, evaluation_id: str) -> EvaluationInfo:
    """Ask an evaluation to end; nothing of it is kept. Raises Conflict when it is over."""
    folder, order = _find(studio, evaluation_id)
    evaluation_queue.job_of(folder).cancel(f"This evaluation of {order.run_name}")
    studio.look()
    return get(studio, evaluation_id)


def delete(studio: Studio, evaluation_id: str) -> EvaluationInfo:
    """Delete an evaluation and its result; raises Conflict while it is waiting or running."""
    info = get(studio, evaluation_id)
    evaluation_queue.job_of(folder_of(studio, info.id)).delete("This evaluation")
    return info


def result(studio: Studio, evaluation_id: str) -> Result:
    """The result of a finished evaluation; raises Conflict when there is none yet."""
    folder, order = _find(studio, evaluation_id)
    outcome = files.read_result(folder.path)
    if outcome is None:
        info = _info(studio, folder, order)
        raise Conflict(f"This evaluation is {info.state}: it has no result. {info.message}".strip())
    return outcome


def judgement(studio: Studio, evaluation_id: str) -> dict[str, Any] | None:
    """The verdict of a judge, if one was asked (services/evals/judge.py)."""
    return read_json(folder_of(studio, evaluation_id).path / "judge.json")


def as_dict(studio: Studio, evaluation_id: str) -> dict[str, Any]:
    """An evaluation with its result, for JSON: scores by set, and every prompt with its answers."""
    info = get(studio, evaluation_id)
    value = asdict(info) | {"path": access.for_reader(studio, info.path)}
    if info.state != "completed":
        return value
    outcome = result(studio, evaluation_id)
    rows = [
        {
            "set": row.set,
            "question": row.prompt.question,
            "reference": row.prompt.reference,
            "expected": row.prompt.check.words if row.prompt.check else "",
            "answers": row.answers,
            "ends": row.ends,
        }
        for row in outcome.rows
    ]
    return value | {
        "scores": [asdict(prompt_set) for prompt_set in outcome.sets],
        "judge": judgement(studio, evaluation_id),
        "rows": rows,
    }
