"""The sidebar: this machine, what is running, what waits, and in a shared studio who one is there.

What changes comes with the pulse (ui/web/pulse.py).
"""

import json
import time
from dataclasses import dataclass

import gradio as gr

from studio.services.core.studio import Studio
from studio.services.host import admin as admins
from studio.services.host import machine
from studio.services.host.machine import Machine
from studio.services.runs import run_list, runs
from studio.services.runs.runs import RunInfo
from studio.ui import account_panel
from studio.ui.parts import markup, units
from studio.ui.parts.handlers import PRIVATE, Step, Updates, view, with_notice
from studio.ui.parts.markup import esc

NEWS_SECONDS = 600.0
_FRESH = 6.0  # seconds for which the machine is taken to be as it was: on a GPU a look is a process


@dataclass(frozen=True)
class Sidebar:
    """What the page needs: the part with the runs, whose names are to open them, and the step that fills it all."""

    now: gr.HTML
    refresh: Step


def build(studio: Studio) -> Sidebar:
    """The sidebar's components and what happens in them."""
    with gr.Sidebar(label="This machine", width=264, elem_id="sidebar"):
        about = view("machine")
        now = view("now", picks=True)
        visit, admin = view("visit"), view("admin", picks=True)
        notice, noticed = view("sidebar-notice"), view("studio-notices")

    def refresh() -> Updates:
        told_of = parts(studio, run_list.current(studio, NEWS_SECONDS))
        places = {"studio-notices": noticed, "machine": about, "now": now, "visit": visit}
        return {places[name]: html for name, html in told_of.items()} | {admin: account_panel.admin(studio)}

    def stop(event: gr.EventData) -> Updates:
        if hasattr(event, "stop"):
            runs.stop(studio, event.stop)
        return {now: _now(run_list.current(studio, NEWS_SECONDS))}

    def act(event: gr.EventData) -> Updates:
        """What the admin's buttons do; nothing is cleared before it was said what that would be."""
        below = ""
        if hasattr(event, "halt"):
            below = account_panel.stopped(admins.stop(studio, event.halt))
        if hasattr(event, "clear"):
            below = account_panel.clearing(admins.would_clear(studio, event.clear), event.clear)
        if hasattr(event, "really"):
            below = account_panel.cleared(admins.clear(studio, event.really))
        return {admin: account_panel.admin(studio, below)}

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    step: Step = {
        "fn": with_notice(studio, notice, refresh, clear=False),
        "inputs": None,
        "outputs": [notice, noticed, about, now, visit, admin],
        **quiet,
    }
    admin.click(with_notice(studio, notice, act), None, [notice, admin], **quiet)
    now.click(with_notice(studio, notice, stop), None, [notice, now], **quiet)
    return Sidebar(now=now, refresh=step)


def parts(studio: Studio, current: list[RunInfo]) -> dict[str, str]:
    """What the sidebar shows, by the id of its place."""
    notices = "".join(markup.note(text, "warn") for text in studio.notices)
    visit = account_panel.shown(studio)
    return {"machine": machine_now(studio), "now": _now(current), "studio-notices": notices, "visit": visit}


def machine_now(studio: Studio) -> str:
    """This machine as it was a moment ago."""
    return _machine(machine.lately(studio, _FRESH))


def _machine(found: Machine) -> str:
    rows = []
    if found.device_kind == "cuda":
        rows.append(("GPU memory", found.device_used, found.device_total))
    rows.append(("Memory", found.memory_used, found.memory_total))
    bars = "".join(
        f'<div class="gauge"><p><span>{name}</span><b>{esc(units.share_of(used, total))}</b></p>'
        f"{markup.progress(used, total, f'{name} in use')}</div>"
        for name, used, total in rows
    )
    return (
        f'<section class="side-part"><h2>This machine</h2><p class="device">{esc(found.device)}</p>{bars}'
        f'<p class="quiet">{esc(units.size(found.disk_free))} of disk free</p></section>'
    )


def _now(known: list[RunInfo]) -> str:
    """Runs that are at work, then those that wait."""
    working = [run for run in known if not run.final and run.state != "queued"]
    waiting = [run for run in known if run.state == "queued"]
    current = "".join(map(_working, working)) or '<p class="quiet">Nothing is running.</p>'
    waiting.sort(key=lambda run: run.position)
    queue = "".join(f"<li>{_name(run)}</li>" for run in waiting)
    queue = f'<section class="side-part"><h2>Queue ({len(waiting)})</h2><ol class="queue">{queue}</ol></section>'
    now = f'<section class="side-part"><h2>Now</h2>{current}</section>{queue if waiting else ""}'
    return f"{now}{_ended(known)}"


def _ended(known: list[RunInfo]) -> str:
    """Runs that ended a moment ago, for the browser's own notifications (static/studio.js)."""
    since = time.time() - NEWS_SECONDS
    ended = [run for run in known if run.final and (run.ended or 0) > since]
    news = [{"id": run.id, "name": run.name, "state": run.state, "text": run.message, "at": run.ended} for run in ended]
    button = '<button type="button" class="link" data-notify>Tell me when a run ends</button>'
    return f'<div class="news" data-ended="{esc(json.dumps(news))}">{button}</div>'


def _name(run: RunInfo) -> str:
    return f'<button type="button" class="link" data-pick data-open="{esc(run.id)}">{esc(run.name)}</button>'


def _working(run: RunInfo) -> str:
    bar = markup.progress(run.step, run.total_steps, f"Progress of {run.name}")
    left = f"{units.clock(run.seconds_left)} left" if run.seconds_left is not None else run.doing or run.state
    wait = "disabled" if run.state == "stopping" else ""
    return (
        f'<div class="working"><p>{_name(run)}{markup.mark(run.state)}</p>{bar}'
        f"<p><span>step {run.step:,} of {run.total_steps:,}</span><span>{esc(left)}</span></p>"
        f'<button type="button" class="small-stop" data-pick data-stop="{esc(run.id)}" {wait} '
        f'aria-label="Stop {esc(run.name)}">Stop</button></div>'
    )
