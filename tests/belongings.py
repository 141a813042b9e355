"""Everything that one visitor of a shared studio can own, made without torch; and the marks by which it is known."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studio.launch import workers
from studio.recipe import Recipe
from studio.recipe.fields import Data
from studio.rundir import Exit, RunDir, whole_folder
from studio.services.chat import comparisons, votes
from studio.services.chat.chat import Answer, ChatState, Sampling
from studio.services.chat.participants import BASE, Side
from studio.services.core.identity import Visitor, acting
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets
from studio.services.evals import evaluations, prompt_sets
from studio.services.exports import exports
from studio.services.models import adapters
from studio.services.models.adapters import New
from studio.services.runs import labels, runs
from tests.conftest import write_jsonl


@dataclass(frozen=True)
class Things:
    """Ids of what a visitor owns, by noun. mark: a word that stands in all of it and nowhere else."""

    visitor: Visitor
    mark: str
    ids: dict[str, str]


def rows(mark: str, count: int = 24) -> list[dict[str, object]]:
    return [
        {"instruction": f"{mark} asks for {n} and {n + 1}.", "input": "", "output": f"{mark} says {2 * n + 1}"}
        for n in range(count)
    ]


@contextmanager
def no_worker() -> Iterator[None]:
    start = workers.start
    workers.start = lambda *_, **__: False  # type: ignore[assignment]
    try:
        yield
    finally:
        workers.start = start


def make(studio: Studio, visitor: Visitor, mark: str, folder: Path) -> Things:
    """One of everything. The keeper must not start what waits: use the fixture `nothing_starts`."""
    folder.mkdir(parents=True, exist_ok=True)
    with acting(visitor), no_worker():
        return Things(visitor, mark, _make(studio, mark, folder))


def _make(studio: Studio, mark: str, folder: Path) -> dict[str, str]:
    def uploaded(name: str) -> str:
        return checks.take_in(studio, write_jsonl(folder / f"{name}.jsonl", rows(f"{mark}-{name}")))

    ids = {"dataset": datasets.add(studio, uploaded("data"), f"{mark}-data").id}
    kept = uploaded("kept")
    ids["upload"] = kept
    ids["check"] = checks.check(studio, kept).token
    recipe = Recipe().with_values({"model": "tiny", "dataset": ids["dataset"], "name": f"{mark}-run", "held_out": 0.4})
    for noun, over in (("run", True), ("waiting", False)):
        ids[noun] = runs.start(studio, recipe.with_values({"name": f"{mark}-{noun}"})).id
        if over:
            run = studio.run_dir(ids[noun])
            for part in (run.adapter, run.checkpoints / "step-2"):
                with whole_folder(part) as inside:
                    (inside / "adapter_config.json").write_text(json.dumps({"note": mark}))
            run.log.write_text(f"{mark} in the log\n")
            Exit("completed", f"{mark} completed.").write(run)
            studio.look()
    labels.change(studio, ids["run"], notes=f"{mark} notes", tags=[f"{mark}-tag"])
    ids["checkpoint"] = f"{ids['run']}@2"
    made = exports.start(studio, ids["run"], "merged")
    with whole_folder(studio.settings.exports / made.id / "merged") as inside:
        (inside / "model.safetensors").write_text(mark * 50)
    Exit("completed", f"{mark} is ready.").write(RunDir(studio.settings.exports / made.id))
    ids["export"] = made.id
    contents = folder / "brought"
    contents.mkdir()
    (contents / "adapter_config.json").write_text(json.dumps({"note": mark}))
    (contents / "adapter_model.safetensors").write_bytes(mark.encode())
    ids["adapter"] = adapters.put(studio, New(f"{mark}-brought", "imported", recipe, {"from": mark}), contents).id
    shutil.rmtree(contents)
    ids["prompts"] = prompt_sets.add_typed(studio, f"{mark} first?\n{mark} second? => {mark}", f"{mark}-prompts").id
    evaluation = evaluations.start(studio, ids["run"], [ids["prompts"]])
    evaluations.cancel(studio, evaluation.id)
    ids["evaluation"] = evaluation.id
    run_side = Side(ids["run"], f"{ids['run']}@0", f"{mark}-run", mark, "tiny", "float32", Data())
    base = Side(BASE, BASE, "Base", "tiny", "tiny", "float32", Data())
    turn = comparisons.ask([base, run_side], f"{mark} question?", Sampling(), f"{mark} system")
    answers = tuple(Answer(f"{mark} answer", done=True, tokens=1) for _ in range(2))
    turn = comparisons.with_answers(turn, ChatState("", answers, finished=True))
    past = comparisons.add(comparisons.new_comparison(), turn)
    comparisons.save(studio, past)
    votes.cast(studio, turn, run_side.key)
    ids["comparison"] = past.id
    return ids
