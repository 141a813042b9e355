"""The sidebar: this machine, running and queued runs and, in a shared studio, the signed-in visitor.

Live updates arrive with the pulse (ui/web/pulse.py).
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
_FRESH = 6.0  # seconds a reading of the machine is reused: on a GPU each reading starts a process


@dataclass(frozen=True)
class Sidebar:
    """What the page needs: the list of runs (a click on a name opens the run) and the step that fills the sidebar."""

    now: gr.HTML
    refresh: Step


def build(studio: Studio) -> Sidebar:
    """Build the sidebar's components and wire their events."""
    with gr.Sidebar(label="This machine", width=264, elem_id="sidebar"):
        about = view("machine")
        now = view("now", picks=True)
        visit, admin = view("visit"), view("admin", picks=True)
        notice, noticed = view("sidebar-notice"), view("studio-notices")

    def refresh() -> Updates:
        html_by_place = parts(studio, run_list.current(studio, NEWS_SECONDS))
        places = {"studio-notices": noticed, "machine": about, "now": now, "visit": visit}
        return {places[name]: html for name, html in html_by_place.items()} | {admin: account_panel.admin(studio)}

    def stop(event: gr.EventData) -> Updates:
        if hasattr(event, "stop"):
            runs.stop(studio, event.stop)
        return {now: _now(run_list.current(studio, NEWS_SECONDS))}

    def act(event: gr.EventData) -> Updates:
        """Handle the admin's buttons. Nothing is deleted before the admin has seen what would be deleted."""
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
    """The sidebar's HTML, by the id of its place."""
    notices = "".join(markup.note(text, "warn") for text in studio.notices)
    visit = account_panel.shown(studio)
    return {"machine": machine_now(studio), "now": _now(current), "studio-notices": notices, "visit": visit}


def machine_now(studio: Studio) -> str:
    """This machine as last measured, at most `_FRESH` seconds ago."""
    return _machine(machine.lately(studio, _FRESH))


def _machine(info: Machine) -> str:
    rows = []
    if info.device_kind == "cuda":
        rows.append(("GPU memory", info.device_used, info.device_total))
    rows.append(("Memory", info.memory_used, info.memory_total))
    bars = "".join(
        f'<div class="gauge"><p><span>{name}</span><b>{esc(units.share_of(used, total))}</b></p>'
        f"{markup.progress(used, total, f'{name} in use')}</div>"
        for name, used, total in rows
    )
    return (
        f'<section class="side-part"><h2>This machine</h2><p class="device">{esc(info.device)}</p>{bars}'
        f'<p class="quiet">{esc(units.size(info.disk_free))} free on disk</p></section>'
    )


def _now(infos: list[RunInfo]) -> str:
    """Runs in progress, then queued runs."""
    working = [run for run in infos if not run.final and run.state != "queued"]
    waiting = [run for run in infos if run.state == "queued"]
    current = "".join(map(_working, working)) or '<p class="quiet">Nothing is running.</p>'
    waiting.sort(key=lambda run: run.position)
    queue = "".join(f"<li>{_name(run)}</li>" for run in waiting)
    queue = f'<section class="side-part"><h2>Queue ({len(waiting)})</h2><ol class="queue">{queue}</ol></section>'
    now = f'<section class="side-part"><h2>Now</h2>{current}</section>{queue if waiting else ""}'
    return f"{now}{_ended(infos)}"


def _ended(infos: list[RunInfo]) -> str:
    """Runs that ended recently, for the browser's notifications (static/studio.js)."""
    since = time.time() - NEWS_SECONDS
    ended = [run for run in infos if run.final and (run.ended or 0) > since]
    news = [{"id": run.id, "name": run.name, "state": run.state, "text": run.message, "at": run.ended} for run in ended]
    button = '<button type="button" class="link" data-notify>Notify me when a run ends</button>'
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
