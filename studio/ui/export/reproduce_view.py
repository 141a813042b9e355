"""Reproduce on the Export page: the chosen run as recipe, script, notebook and rows, to run without the studio."""

from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

from studio.errors import StudioError
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.exports import reproduce
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Updates, view
from studio.ui.parts.templates import render

_WORDS = {
    "zip": "Everything as a zip",
    "py": "Script",
    "ipynb": "Notebook",
    "yaml": "Recipe",
}


def build(studio: Studio, run: gr.Dropdown) -> None:
    """Build the box. run: the dropdown of the page."""
    with gr.Column(elem_id="reproduce"):
        view(
            "",
            markup.heading(
                "Reproduce",
                "The same run in plain TRL and PEFT, without the studio: a script with pinned versions, a notebook, "
                "and the rows in training order.",
            ),
        )
        shown = view("reproduce-what")

    def show(chosen: str | None) -> Updates:
        return {shown: _what(studio, chosen) if chosen else ""}

    run.change(show, run, [shown], queue=False, show_progress="hidden", api_visibility=PRIVATE)


def _what(studio: Studio, chosen: str) -> str:
    try:
        bundle = reproduce.of(studio, chosen)
    except StudioError as error:
        return markup.note(access.for_reader(studio, error))
    commands = f"{bundle.plain}    # without the studio, next to train.jsonl\n{bundle.command}    # with the studio"
    return render("export/reproduce.html", run=bundle.run, forms=_WORDS, commands=commands, notes=bundle.notes)


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/reproduce/<run>.<form>`: the files of a run."""

    @app.get("/reproduce/{run_id}.{form}", response_model=None)
    def reproduced(run_id: str, form: str) -> StreamingResponse | PlainTextResponse:
        try:
            name, parts = reproduce.download(studio, run_id, form)
        except StudioError as error:
            return PlainTextResponse(access.for_reader(studio, error), status_code=404)
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
            "X-Content-Type-Options": "nosniff",
        }
        return StreamingResponse(parts, media_type=reproduce.FORMS[form], headers=headers)
