"""A run's history: sample answers, states, workers and checkpoints."""

from typing import Any

from studio.services.runs.history import Attempt, Happening, Story
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc

ENGINES = {"fast": "Trained on the fast path", "trl": "Trained on TRL's own path"}


def samples(events: list[dict[str, Any]]) -> str:
    """The answers to the user's prompts, grouped by prompt, newest first."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for sample in events:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    if not by_prompt:
        return ""
    return markup.heading("Samples", "The run's answers at each evaluation.") + "".join(
        f'<section class="sampled"><h4>{esc(prompt)}</h4><dl>{"".join(map(_answer, reversed(answers)))}</dl></section>'
        for prompt, answers in by_prompt.items()
    )


def _answer(sample: dict[str, Any]) -> str:
    return f"<dt>step {int(sample.get('step') or 0):,}</dt><dd>{esc(sample.get('answer', ''))}</dd>"


def story(history: Story) -> str:
    """States with their times, workers, checkpoints, and predicted and measured memory."""
    return "".join(
        [
            _engine(history),
            _memory(history),
            markup.heading("What happened"),
            markup.table(["When", "State", ""], list(map(_state, history.states)), "States of the run"),
            markup.heading("Checkpoints", units.size(history.checkpoint_bytes) if history.checkpoints else "none"),
            _checkpoints(history),
            markup.heading("Workers"),
            markup.table(
                ["", "Process", "Device", "Started", "End"], list(map(_worker, history.attempts)), "Workers of the run"
            ),
        ]
    )


def _engine(history: Story) -> str:
    name = ENGINES.get(str(history.run.plan.get("engine")), "")
    return f'<p class="why">{esc(name)}. {esc(history.run.plan.get("engine_why", ""))}</p>' if name else ""


def _memory(history: Story) -> str:
    if not history.predicted:
        return ""
    measured = f", measured {units.size(history.measured)}" if history.measured else ""
    return f'<p class="why">Peak memory: predicted {esc(units.size(history.predicted))}{esc(measured)}.</p>'


def _state(event: Happening) -> list[str]:
    return [markup.when(event.time), markup.mark(event.state), esc(event.message)]


def _checkpoints(history: Story) -> str:
    if not history.checkpoints:
        return ""
    rows = [
        [
            f"step {checkpoint.step:,}",
            esc(units.size(checkpoint.bytes)),
            esc(checkpoint.fault) if checkpoint.fault else "complete: every file verified",
        ]
        for checkpoint in history.checkpoints
    ]
    return markup.table(["", "Size", ""], rows, "Checkpoints")


def _worker(attempt: Attempt) -> list[str]:
    process = f"{attempt.pid} on {attempt.host}" if attempt.pid else "none"
    end = "running" if attempt.alive else attempt.message or attempt.state
    started = markup.when(attempt.started) if attempt.started else "–"
    return [f"{attempt.number}", esc(process), esc(attempt.device), started, esc(end)]
