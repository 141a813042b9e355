"""The sidebar: this machine, running and queued runs and, in a shared studio, the signed-in visitor.

Live updates arrive with the pulse (ui/web/pulse.py).
"""

import json
import time
from dataclasses import dataclass
from typing import Any

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
from studio.ui.parts.templates import macro

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
        result = ""
        if hasattr(event, "halt"):
            result = account_panel.stopped(admins.stop(studio, event.halt))
        if hasattr(event, "clear"):
            result = account_panel.clearing(admins.would_clear(studio, event.clear), event.clear)
        if hasattr(event, "really"):
            result = account_panel.cleared(admins.clear(studio, event.really))
        return {admin: account_panel.admin(studio, result)}

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
    gauges = [("Memory", info.memory_used, info.memory_total)]
    if info.device_kind == "cuda":
        gauges.insert(0, ("GPU memory", info.device_used, info.device_total))
    in_words = [(name, used, total, units.share_of(used, total)) for name, used, total in gauges]
    return macro("sidebar.html", "machine", info, in_words)


def _now(infos: list[RunInfo]) -> str:
    """Runs in progress, then queued runs."""
    working = [run for run in infos if not run.final and run.state != "queued"]
    waiting = sorted((run for run in infos if run.state == "queued"), key=lambda run: run.position)
    return macro("sidebar.html", "now", working, waiting, json.dumps(_ended(infos)))


def _ended(infos: list[RunInfo]) -> list[dict[str, Any]]:
    """Runs that ended recently, for the browser's notifications (static/studio.js)."""
    since = time.time() - NEWS_SECONDS
    ended = [run for run in infos if run.final and (run.ended or 0) > since]
    return [{"id": run.id, "name": run.name, "state": run.state, "text": run.message, "at": run.ended} for run in ended]
