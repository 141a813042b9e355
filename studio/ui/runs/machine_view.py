"""This machine over the last hour: small charts, and whose memory it is. A fold of the Runs page.

static/machine.js asks `/machine` while the fold is open and in sight, and for nothing otherwise.
"""

import math
from dataclasses import asdict
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from studio.services.core.studio import Studio
from studio.services.host import usage

_ON_LOAD = """
import(`${location.origin}/static/machine.js`).then(({start}) => start(element));
"""
_SERIES = ("time", "cpu", "memory_used", "memory_total", "disk_used", "disk_total", "gpu_used", "gpu_total", "gpu_busy")


def build() -> None:
    """The fold with the charts."""
    with gr.Accordion("This machine", open=False, elem_classes="fold", elem_id="machine-fold"):
        gr.HTML(
            html_template='<div class="machine-view"></div>',
            js_on_load=_ON_LOAD,
            elem_id="machine-view",
            apply_default_css=False,
        )


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/machine`: the samples after a moment, column by column, and who holds the memory now."""

    @app.get("/machine")
    def machine(after: float = 0.0) -> JSONResponse:
        found = usage.look(studio, after if math.isfinite(after) else 0.0)
        told: dict[str, Any] = {
            "every": usage.EVERY,
            "keeping": studio.keeping,
            "samples": {name: [getattr(one, name) for one in found.samples] for name in _SERIES},
            "holders": [asdict(one) for one in found.holders],
        }
        return JSONResponse(told, headers={"Cache-Control": "no-store"})
