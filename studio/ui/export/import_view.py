"""Import on the Export page: add an adapter from a zip, a local folder or the hub."""

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from studio.errors import BadInput
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.models import imports, models
from studio.services.models.imports import ImportRequest
from studio.ui.parts import busy, markup
from studio.ui.parts.busy import Busy
from studio.ui.parts.handlers import QUEUED, Step, Updates, view, with_notice_while

_SAYS = ("From the adapter's config", "")


@dataclass(frozen=True)
class ImportBox:
    """The components. base: the choice of a base model, filled when the page is opened."""

    upload: gr.File
    source: gr.Textbox
    base: gr.Dropdown
    name: gr.Textbox
    notice: gr.HTML
    busy: Busy
    button: gr.Button


def build(studio: Studio) -> ImportBox:
    """Build the box."""
    local = access.is_local(studio)
    with gr.Column(elem_id="import"):
        view(
            "",
            markup.heading(
                "Import an adapter",
                "Add a PEFT adapter or a merged model, from someone else or exported by you, to compare, evaluate, "
                "combine and export it. Safetensors only; no code in it is run.",
            ),
        )
        upload = gr.File(label="Adapter (zip)", file_types=[".zip"], elem_id="import-zip", height=120)
        with gr.Row(elem_classes="combine-row"):
            source = gr.Textbox(
                label="Or a folder on this machine, or a hub id" if local else "Or a hub id",
                placeholder="/path/to/adapter or someone/their-adapter" if local else "someone/their-adapter",
                elem_id="import-source", max_length=1000, scale=3,
            )  # fmt: skip
            base = gr.Dropdown([_SAYS], value="", label="Base model", elem_id="import-base", filterable=False, scale=2)
            name = gr.Textbox(
                label="Name", placeholder="the adapter's own", elem_id="import-name", max_length=70, scale=2
            )
        notice = view("import-notice")
        working = busy.build("import")
        button = gr.Button("Import", variant="primary", elem_id="import-go")
    return ImportBox(upload, source, base, name, notice, working, button)


def bases(studio: Studio, box: ImportBox) -> Updates:
    """The base models that an adapter may belong to."""
    return {box.base: gr.update(choices=[_SAYS, *((info.id, info.id) for info in models.list_models(studio))])}


def wire(studio: Studio, box: ImportBox, reopen: Step) -> None:
    """Wire the box's events. reopen: the page's own step, after which the imported adapter can be selected."""

    def bring(request: gr.Request, path: str | None, source: str, on: str | None, name: str) -> Iterator[Updates]:
        if not path and not source.strip():
            raise BadInput("Choose a zip, or enter a folder or hub id.")
        options = ImportRequest(on or "", name)
        steps = (
            imports.from_upload(studio, path, options) if path
            else imports.add(studio, source, options, folders=access.is_local(studio))
        )  # fmt: skip
        yield {box.notice: "", box.upload: None}
        info = yield from box.busy.follow(request, "Checking the adapter", steps)
        text = f"{info.name} was imported: try it in Compare, or select it above to export it."
        yield {box.notice: markup.note(text, "good"), box.source: "", box.name: ""}

    box.button.click(
        with_notice_while(studio, box.notice, bring, box.busy.idle), [box.upload, box.source, box.base, box.name],
        [box.notice, box.upload, box.source, box.name, box.busy.said], **QUEUED,
    ).then(**reopen)  # fmt: skip
