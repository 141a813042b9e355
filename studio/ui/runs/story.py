"""A run's history: sample answers, states, workers and checkpoints."""

from typing import Any

from studio.services.runs.history import Story
from studio.ui.parts.templates import render

ENGINES = {"fast": "Trained on the fast path", "trl": "Trained on TRL's own path"}


def samples(events: list[dict[str, Any]]) -> str:
    """The answers to the user's prompts, grouped by prompt, newest first."""
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for sample in events:
        answer = int(sample.get("step") or 0), str(sample.get("answer", ""))
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(answer)
    return render("runs/samples.html", prompts=list(by_prompt.items())) if by_prompt else ""


def story(history: Story) -> str:
    """States with their times, workers, checkpoints, and predicted and measured memory."""
    plan = history.run.plan
    engine = ENGINES.get(str(plan.get("engine")), "")
    return render("runs/history.html", story=history, engine=engine, engine_why=plan.get("engine_why", ""))
