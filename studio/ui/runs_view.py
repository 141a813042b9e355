"""How runs look: the table of all, and one run's state and figures."""

import time

from studio.services.runs import RunInfo
from studio.services.states import EXPLAINED
from studio.ui import markup, run_acts, units
from studio.ui.markup import esc

PAGE = 12
MOST_TOGETHER = 8


def table(known: list[RunInfo], chosen: str, page: int, together: list[str]) -> str:
    """Twelve runs a page, newest first; a click on a row opens it, its box draws its curves beside the open one's."""
    start = page * PAGE
    shown = known[start : start + PAGE]
    heads = ["State", "Name", "Model", "Data", "Progress", "Loss", "Best eval", "Duration", "Started"]
    numeric = {"Loss", "Best eval", "Duration"}
    head = "".join(f'<th scope="col"{" class=num" if name in numeric else ""}>{name}</th>' for name in heads)
    body = "".join(_row(run, run.id == chosen, _box(run, chosen, together)) for run in shown)
    return (
        f'<div class="scroll"><table class="table runs" aria-label="Runs"><thead><tr>'
        f'<th scope="col" class="beside" aria-label="Curves"></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_pager(len(known), page)}"
    )


def _row(run: RunInfo, chosen: bool, box: str) -> str:
    name = (
        f'<button type="button" class="link" data-pick data-id="{esc(run.id)}" aria-pressed="{str(chosen).lower()}">'
        f"{esc(run.name)}</button>"
    )
    bar = markup.progress(run.step, run.total_steps, f"Progress of {run.name}")
    return (
        f'<tr data-pick data-id="{esc(run.id)}" class="{"chosen" if chosen else ""}">{box}'
        f"<td>{_state(run)}</td>"
        f"<td>{name}</td><td>{esc(run.model)}</td><td>{esc(run.dataset)}</td>"
        f'<td class="steps"><div>{bar}<span>{run.step:,}/{run.total_steps:,}</span></div></td>'
        f'<td class="num">{units.figure(run.loss)}</td><td class="num">{units.figure(run.best_eval)}</td>'
        f'<td class="num">{units.clock(duration(run))}</td><td>{markup.when(run.created)}</td></tr>'
    )


def _state(run: RunInfo) -> str:
    """The state; of a waiting run its place in the line."""
    return markup.mark(run.state, f"{run.position} in line" if run.position else "")


def _box(run: RunInfo, chosen: str, together: list[str]) -> str:
    """Whether the run's curves are drawn: the open one's always are, and eight are as many as can be told apart."""
    drawn = run.id in together
    fixed = run.id == chosen or (not drawn and len(together) >= MOST_TOGETHER)
    words = f"Draw the curves of {run.name} too"
    return (
        f'<td class="beside"><input type="checkbox" data-pick data-beside="{esc(run.id)}" aria-label="{esc(words)}" '
        f'title="{esc(words)}"{" checked" if drawn else ""}{" disabled" if fixed else ""}></td>'
    )


def _pager(total: int, page: int) -> str:
    if total <= PAGE:
        return ""
    last = min(total, (page + 1) * PAGE)
    newer, older = "disabled" if page == 0 else "", "disabled" if last >= total else ""
    return (
        f'<nav class="pager" aria-label="Pages of runs"><button type="button" data-pick data-page="{page - 1}" {newer}>'
        f"Newer</button><span>{page * PAGE + 1} to {last} of {total}</span>"
        f'<button type="button" data-pick data-page="{page + 1}" {older}>Older</button></nav>'
    )


def duration(run: RunInfo) -> float | None:
    """Seconds since the run started, or that it took."""
    return None if run.started is None else (run.ended or time.time()) - run.started


def head(run: RunInfo) -> str:
    """State, progress and figures of the open run, and what it has to say; run_acts.marks show the buttons."""
    doing = f'<p class="doing" role="status">{esc(run.doing)}…</p>' if run.doing and not run.final else ""
    bar = markup.progress(run.step, run.total_steps, f"Progress of {run.name}")
    return (
        f'<div class="title run-title" data-open-run="{esc(run.id)}"{run_acts.marks(run)}>'
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
    usual = run.message in ("", EXPLAINED[run.state]) and run.state not in ("stalled", "failed", "interrupted")
    if usual and not run.remedy and not run.position:
        return ""
    if run.position:
        ahead = run.position - 1
        return markup.note("It is the next to start." if not ahead else f"It waits; before it {ahead} of the queue.")
    if run.state in ("failed", "interrupted"):
        return markup.problem(run.message[:1].upper() + run.message[1:], run.remedy)
    return markup.note(f"{run.message} {run.remedy}".strip(), "warn" if run.state == "stalled" else "plain")
