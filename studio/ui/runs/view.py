"""Runs as HTML: a row of the list, and the open run's state and figures."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from studio.services.core.states import EXPLAINED
from studio.services.runs.runs import RunInfo
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc
from studio.ui.runs import actions as run_actions

MOST_TOGETHER = 8


def run_list_message(chosen: str, together: Sequence[RunInfo], order: Mapping[str, Any]) -> str:
    """The state that static/runs.js needs, as JSON.

    The open run, the runs drawn with it, how many can be distinguished, the order of the table of differences, and the
    layout key at the time the page was drawn.
    """
    ids = [run.id for run in together]
    state = {"chosen": chosen, "together": ids, "most": MOST_TOGETHER, "order": order, "standing": layout_key(together)}
    return json.dumps(state)


def layout_key(together: Sequence[RunInfo]) -> str:
    """A key of everything that decides which parts and buttons are shown. While it is the same, only text and points
    change.
    """
    if not together:
        return "none"
    open_run, *_ = together
    return f"{markup.name_of(repr([(run.id, run.name, run.state) for run in together]))}{run_actions.marks(open_run)}"


def row(run: RunInfo) -> str:
    """A run in the list; a click opens it, its checkbox adds its curves to those of the open run."""
    name = f'<button type="button" class="link" data-id="{esc(run.id)}">{esc(run.name)}</button>'
    noted = f'<span class="noted" title="{esc(run.notes[:400])}">note</span>' if run.notes else ""
    chips = "".join(map(_tag, run.tags))
    bar = "" if run.final else markup.progress(run.step, run.total_steps, f"Progress of {run.name}")
    return (
        f'<tr data-id="{esc(run.id)}">{_box(run)}<td class="star-cell">{star(run)}</td>'
        f'<td class="at">{_state(run)}</td>'
        f'<td class="named">{name}{noted}{chips}</td><td class="of" title="{esc(run.model)}">{esc(run.model)}</td>'
        f'<td class="of" title="{esc(run.dataset)}">{esc(run.dataset)}</td>'
        f'<td class="steps"><div>{bar}<span>{run.step:,}/{run.total_steps:,}</span></div></td>'
        f'<td class="num loss">{units.figure(run.loss)}</td><td class="num eval">{units.figure(run.best_eval)}</td>'
        f'<td class="num took">{units.clock(duration(run))}</td><td class="num disk">{esc(units.size(run.bytes))}</td>'
        f'<td class="made">{markup.when(run.created)}</td></tr>'
    )


def _state(run: RunInfo) -> str:
    """The run's state; for a queued run its place in the queue."""
    return markup.mark(run.state, f"queued, no. {run.position}" if run.position else "")


def _tag(tag: str) -> str:
    return f'<button type="button" class="tag" data-run-act="tag" data-tag="{esc(tag)}">{esc(tag)}</button>'


def star(run: RunInfo) -> str:
    """A button that stars a run."""
    pressed = str(run.starred).lower()
    return (
        f'<button type="button" class="star" data-run-act="star" data-run="{esc(run.id)}" aria-pressed="{pressed}" '
        f'aria-label="Star {esc(run.name)}">{"★" if run.starred else "☆"}</button>'
    )


def _box(run: RunInfo) -> str:
    """A checkbox that adds the run's curves; for a run in the trash, the Restore button."""
    if run.trashed is not None:
        return (
            f'<td class="beside"><button type="button" class="plain-button" data-run-act="restore" '
            f'data-run="{esc(run.id)}" aria-label="Restore {esc(run.name)}">Restore</button></td>'
        )
    words = f"Also draw the curves of {run.name}"
    return (
        f'<td class="beside"><input type="checkbox" data-beside="{esc(run.id)}" aria-label="{esc(words)}" '
        f'title="{esc(words)}"></td>'
    )


def about(run: RunInfo) -> str:
    """Labels of the open run, and the buttons that change them (static/runs.js)."""

    def button(act: str, word: str) -> str:
        return (
            f'<button type="button" class="plain-button" data-run-act="{act}" data-run="{esc(run.id)}">{word}</button>'
        )

    trash = button("restore", "Restore") if run.trashed is not None else button("trash", "Move to trash")
    note = f'<p class="run-note">{esc(run.notes)}</p>' if run.notes else ""
    size = f'<span class="why">{esc(units.size(run.bytes))} on disk</span>' if run.bytes is not None else ""
    return (
        f'<div class="said-about">{star(run)}{"".join(map(_tag, run.tags))}{size}<span class="run-buttons">'
        f'{button("edit", "Edit")}{trash if run.final else ""}</span></div>{note}<p class="run-wrong" role="alert"></p>'
    )


def duration(run: RunInfo) -> float | None:
    """Seconds since the run started, or its total duration if it ended."""
    return None if run.started is None else (run.ended or time.time()) - run.started


def head(run: RunInfo) -> str:
    """State, progress, figures and message of the open run; `marks` shows the buttons that apply."""
    doing = f'<p class="doing" role="status">{esc(run.doing)}…</p>' if run.doing and not run.final else ""
    bar = markup.progress(run.step, run.total_steps, f"Progress of {run.name}")
    return (
        f'<div class="title run-title" data-open-run="{esc(run.id)}"{run_actions.marks(run)}>'
        f"<h2>{esc(run.name)}</h2>{markup.mark(run.state)}"
        f'<p class="why">{esc(run.model)} on {esc(run.dataset)} · {esc(run.device)}</p></div>'
        f'<div class="wide-bar">{bar}</div>{doing}{markup.facts(_figures(run))}{_message(run)}'
    )


def _figures(run: RunInfo) -> list[tuple[str, str]]:
    left = ("left", units.clock(run.seconds_left)) if not run.final else ("took", units.clock(duration(run)))
    speed = "–" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}"
    return [
        ("step", f"{run.step:,}<small> of {run.total_steps:,}</small>"),
        left,
        ("loss", units.figure(run.loss)),
        ("evaluation loss", units.figure(run.eval_loss)),
        ("tokens/s", speed),
        ("s/step", units.figure(run.step_seconds, 2)),
        ("peak memory", esc(units.size(run.memory))),
    ]


def _message(run: RunInfo) -> str:
    if run.trashed is not None:
        return markup.note("This run is in the trash. You can view and restore it.", "warn")
    usual = run.message in ("", EXPLAINED[run.state]) and run.state not in ("stalled", "failed", "interrupted")
    if usual and not run.remedy and not run.position:
        return ""
    if run.position:
        ahead = run.position - 1
        return markup.note("It will start next." if not ahead else f"Waiting in the queue, {ahead} ahead of it.")
    if run.state in ("failed", "interrupted"):
        return markup.problem(run.message[:1].upper() + run.message[1:], run.remedy)
    return markup.note(f"{run.message} {run.remedy}".strip(), "warn" if run.state == "stalled" else "plain")
