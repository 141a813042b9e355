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
from studio.ui.parts.markup import esc

_WORDS = {
    "zip": "Everything as a zip",
    "py": "Script",
    "ipynb": "Notebook",
    "yaml": "Recipe",
}


def build(studio: Studio, run: gr.Dropdown) -> None:
    """What the chosen run gives away; run: the page's choice."""
    with gr.Column(elem_id="reproduce"):
        view(
            "",
            markup.heading(
                "Reproduce",
                "The same run in plain TRL and PEFT, without the studio: a script with exact versions in its head, a "
                "notebook, and the rows in the order of training.",
            ),
        )
        shown = view("reproduce-what")

    def show(chosen: str | None) -> Updates:
        return {shown: _what(studio, chosen) if chosen else ""}

    run.change(show, run, [shown], queue=False, show_progress="hidden", api_visibility=PRIVATE)


def _what(studio: Studio, chosen: str) -> str:
    try:
        found = reproduce.of(studio, chosen)
    except StudioError as error:
        return markup.note(access.for_reader(studio, error))
    links = " ".join(
        f'<a class="download" href="/reproduce/{esc(quote(found.run))}.{form}" download>{esc(words)}</a>'
        for form, words in _WORDS.items()
    )
    lines = "".join(f"<p>{esc(line)}</p>" for line in found.notes)
    commands = f"{found.plain}    # without the studio, beside train.jsonl\n{found.command}    # with it"
    return f'<p class="get">{links}</p>{markup.code(commands, "the commands")}{lines}'


def add_routes(app: FastAPI, studio: Studio) -> None:
    """The files of a run that is given away."""

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
