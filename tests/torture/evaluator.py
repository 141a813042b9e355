"""An evaluator without models: the base answers `?`, all others the reference. It waits while `hold` is there."""

import time

from studio.engine.workers import harness
from studio.engine.workers.harness import Ended, Worker
from studio.evaluation import files, scores
from studio.evaluation.files import Order
from studio.evaluation.scores import Row
from studio.rundir import Exit


def evaluate(work: Worker) -> Exit:
    order, prompts = Order.read(work.run.path), files.read_prompts(work.run.path)
    work.state("running")
    work.progress("Answering", 0, len(prompts))
    work.progress("Answering", len(prompts), len(prompts))
    while (work.run.path.parent.parent / "hold").exists():
        if work.run.asked("cancel"):
            raise Ended(Exit("stopped", "Cancelled: nothing of this evaluation is kept.", cause="cancelled"))
        time.sleep(0.02)
    rows = []
    for name, prompt in prompts:
        answers = {column.name: prompt.reference or "!" for column in order.columns} | {"base": "?"}
        rows.append(Row(name, prompt, answers, dict.fromkeys(answers, "end")))
    found = [
        scores.score_set(one.name, one.title, one.kind, [row for row in rows if row.set == one.name], {})
        for one in order.sets
    ]
    files.write_result(work.run.path, rows, found)
    return Exit("completed", found[0].sentences["adapted"], cause="finished")


if __name__ == "__main__":
    raise SystemExit(harness.serve("A fake.", evaluate))
