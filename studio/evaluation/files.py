"""Files of an evaluation directory: a run directory (rundir/) with this order and result.

evaluations/<id>/
  evaluation.json    in; what is evaluated: model, columns, sets, dataset; immutable
  prompts.jsonl      in; the prompts of all sets, in order; `set` is the name of the set
  control/           in; cancel
  events.jsonl …     as in any run directory
  result/            out; complete, with MANIFEST.json, or absent
    prompts.jsonl    the prompts that were asked
    answers.jsonl    for each prompt: answers and how they ended, by column
    scores.json      figures with intervals, a list of sets
  judge.json         the verdicts of a judge, if one was asked
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from studio.errors import BadInput
from studio.evaluation import prompts as prompt_files
from studio.evaluation.prompts import Prompt
from studio.evaluation.scores import Row, SetKind, SetScores, as_dict, from_dict
from studio.rundir import MANIFEST, read_json, whole_folder, write_json, write_text

ORDER = "evaluation.json"


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A prompt set in an order. tokens: maximum answer length; 0 derives it from the references."""

    name: str
    title: str
    kind: SetKind
    prompts: int
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """A model that answers. folder: its adapter or full model, empty for the base; data: its recipe's data section."""

    name: str
    title: str
    folder: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """Content of evaluation.json: what to evaluate. seed: of the dataset's split; rows: held-out rows for the loss."""

    run_id: str
    run_name: str
    owner: str
    created: float
    model: str
    model_folder: str
    dtype: str
    dataset: str
    dataset_folder: str
    seed: int
    sets: list[PromptSet]
    columns: list[Column]
    rows: list[int]

    @classmethod
    def read(cls, folder: Path) -> Self:
        value = read_json(folder / ORDER)
        try:
            if value is None:
                raise TypeError("it is missing")
            sets = [PromptSet(**item) for item in value["sets"]]
            columns = [Column(**item) for item in value["columns"]]
            return cls(**{**value, "sets": sets, "columns": columns})
        except (KeyError, TypeError):
            raise BadInput(f"This evaluation has no readable {ORDER}. Start it again.") from None


@dataclass(frozen=True, slots=True)
class Result:
    """Rows and scores of a finished evaluation."""

    rows: list[Row]
    sets: list[SetScores]


def dump_prompts(sets: Iterable[tuple[str, Iterable[Prompt]]]) -> str:
    """The text of prompts.jsonl."""
    rows = []
    for name, prompts in sets:
        for prompt in prompts:
            value = json.loads(prompt_files.dump([prompt])) | {"set": name}
            rows.append(json.dumps(value, ensure_ascii=False) + "\n")
    return "".join(rows)


def read_prompts(folder: Path) -> list[tuple[str, Prompt]]:
    """The prompts to ask, each with the name of its set."""
    path = folder / "prompts.jsonl"
    names = [json.loads(line)["set"] for line in prompt_files.lines(path)]
    return list(zip(names, prompt_files.load(path), strict=True))


def write_result(folder: Path, rows: Iterable[Row], sets: Iterable[SetScores]) -> None:
    """Write the result atomically."""
    rows = list(rows)
    with whole_folder(folder / "result") as aside:
        write_text(aside / "prompts.jsonl", dump_prompts([(row.set, [row.prompt]) for row in rows]))
        answers = [json.dumps({"answers": row.answers, "ends": row.ends}, ensure_ascii=False) + "\n" for row in rows]
        write_text(aside / "answers.jsonl", "".join(answers))
        write_json(aside / "scores.json", {"sets": [as_dict(scores) for scores in sets]})


def read_result(folder: Path) -> Result | None:
    """The result, or None before it is complete."""
    result = folder / "result"
    value = read_json(result / "scores.json")
    if value is None or not (result / MANIFEST).is_file():
        return None
    answers = [json.loads(line) for line in prompt_files.lines(result / "answers.jsonl")]
    rows = [
        Row(name, prompt, answer["answers"], answer["ends"])
        for (name, prompt), answer in zip(read_prompts(result), answers, strict=True)
    ]
    return Result(rows, [from_dict(scores) for scores in value["sets"]])
