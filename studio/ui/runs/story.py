"""What a run did and left: the answers it gave while it trained, its states, workers and checkpoints."""

from typing import Any

from studio.services.runs.history import Attempt, Happening, Story
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc

ENGINES = {"fast": "Trained on the fast path", "trl": "Trained on TRL's own path"}


def samples(found: list[dict[str, Any]]) -> str:
    """The answers to the user's prompts, prompt by prompt and the newest first."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for sample in found:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    if not by_prompt:
        return ""
    return markup.heading("Samples", "What it answered at each evaluation.") + "".join(
        f'<section class="sampled"><h4>{esc(prompt)}</h4><dl>{"".join(map(_answer, reversed(answers)))}</dl></section>'
        for prompt, answers in by_prompt.items()
    )


def _answer(sample: dict[str, Any]) -> str:
    return f"<dt>step {int(sample.get('step') or 0):,}</dt><dd>{esc(sample.get('answer', ''))}</dd>"


def story(told: Story) -> str:
    """States with their times, workers, checkpoints, and memory as predicted and measured."""
    return "".join(
        [
            _engine(told),
            _memory(told),
            markup.heading("What happened"),
            markup.table(["When", "State", ""], list(map(_state, told.states)), "States of the run"),
            markup.heading("Checkpoints", units.size(told.checkpoint_bytes) if told.checkpoints else "none"),
            _checkpoints(told),
            markup.heading("Workers"),
            markup.table(
                ["", "Process", "Device", "Started", "End"], list(map(_worker, told.attempts)), "Workers of the run"
            ),
        ]
    )


def _engine(told: Story) -> str:
    name = ENGINES.get(str(told.run.plan.get("engine")), "")
    return f'<p class="why">{esc(name)}. {esc(told.run.plan.get("engine_why", ""))}</p>' if name else ""


def _memory(told: Story) -> str:
    if not told.predicted:
        return ""
    measured = f", measured {units.size(told.measured)}" if told.measured else ""
    return f'<p class="why">Peak memory: predicted {esc(units.size(told.predicted))}{esc(measured)}.</p>'


def _state(one: Happening) -> list[str]:
    return [markup.when(one.time), markup.mark(one.state), esc(one.message)]


def _checkpoints(told: Story) -> str:
    if not told.checkpoints:
        return ""
    rows = [
        [
            f"step {one.step:,}",
            esc(units.size(one.bytes)),
            esc(one.fault) if one.fault else "whole: every file verified",
        ]
        for one in told.checkpoints
    ]
    return markup.table(["", "Size", ""], rows, "Checkpoints")


def _worker(one: Attempt) -> list[str]:
    process = f"{one.pid} on {one.host}" if one.pid else "none"
    end = "at work" if one.alive else one.message or one.state
    started = markup.when(one.started) if one.started else "–"
    return [f"{one.number}", esc(process), esc(one.device), started, esc(end)]
