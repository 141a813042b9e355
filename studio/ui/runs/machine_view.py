"""This machine over the last hour: small charts and memory use by process. A fold of the Runs page.

static/machine.js requests `/machine` only while the fold is open and visible.
"""

import math
from dataclasses import asdict
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from studio.services.core.studio import Studio
from studio.services.host import usage
from studio.ui.parts.templates import macro

_ON_LOAD = """
import(`${location.origin}/static/machine.js`).then(({start}) => start(element));
"""
_SERIES = ("time", "cpu", "memory_used", "memory_total", "disk_used", "disk_total", "gpu_used", "gpu_total", "gpu_busy")


def build() -> None:
    """Build the fold with the charts."""
    with gr.Accordion("This machine", open=False, elem_classes="fold", elem_id="machine-fold"):
        gr.HTML(
            html_template=macro("runs/frames.html", "machine"),
            js_on_load=_ON_LOAD,
            elem_id="machine-view",
            apply_default_css=False,
        )


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/machine`: samples after a given time, column by column, and current memory use by process."""

    @app.get("/machine")
    def machine(after: float = 0.0) -> JSONResponse:
        usage_info = usage.look(studio, after if math.isfinite(after) else 0.0)
        payload: dict[str, Any] = {
            "every": usage.EVERY,
            "keeping": studio.keeping,
            "samples": {name: [getattr(item, name) for item in usage_info.samples] for name in _SERIES},
            "holders": [asdict(item) for item in usage_info.holders],
        }
        return JSONResponse(payload, headers={"Cache-Control": "no-store"})
