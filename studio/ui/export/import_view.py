"""Import on the Export page: someone's adapter joins the list, from a zip, a folder of this machine, or the hub."""

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

_SAYS = ("as it says itself", "")


@dataclass(frozen=True)
class ImportBox:
    """base: the choice of a base model, filled when the page is opened."""

    upload: gr.File
    source: gr.Textbox
    base: gr.Dropdown
    name: gr.Textbox
    notice: gr.HTML
    busy: Busy
    button: gr.Button


def build(studio: Studio) -> ImportBox:
    """The box."""
    local = access.is_local(studio)
    with gr.Column(elem_id="import"):
        view(
            "",
            markup.heading(
                "Import an adapter",
                "From someone else, or an export of your own: a PEFT adapter or a merged model joins the list, to be "
                "asked, evaluated, combined and exported. Safetensors only; nothing of it is run.",
            ),
        )
        upload = gr.File(label="Zip of an adapter", file_types=[".zip"], elem_id="import-zip", height=120)
        with gr.Row(elem_classes="combine-row"):
            source = gr.Textbox(
                label="Or a folder of this machine, or a hub id" if local else "Or a hub id",
                placeholder="/path/to/adapter or someone/their-adapter" if local else "someone/their-adapter",
                elem_id="import-source", max_length=1000, scale=3,
            )  # fmt: skip
            base = gr.Dropdown([_SAYS], value="", label="Base model", elem_id="import-base", filterable=False, scale=2)
            name = gr.Textbox(label="Name", placeholder="its own", elem_id="import-name", max_length=70, scale=2)
        notice = view("import-notice")
        working = busy.build("import")
        button = gr.Button("Import", variant="primary", elem_id="import-go")
    return ImportBox(upload, source, base, name, notice, working, button)


def bases(studio: Studio, box: ImportBox) -> Updates:
    """The models that an adapter may belong to."""
    return {box.base: gr.update(choices=[_SAYS, *((info.id, info.id) for info in models.list_models(studio))])}


def wire(studio: Studio, box: ImportBox, reopen: Step) -> None:
    """What happens in it. reopen: the page's own step, after which what was brought can be chosen."""

    def bring(request: gr.Request, path: str | None, told_of: str, on: str | None, called: str) -> Iterator[Updates]:
        if not path and not told_of.strip():
            raise BadInput("Choose a zip, or write where the adapter is.")
        wish = ImportRequest(on or "", called)
        steps = (
            imports.from_upload(studio, path, wish) if path
            else imports.add(studio, told_of, wish, folders=access.is_local(studio))
        )  # fmt: skip
        yield {box.notice: "", box.upload: None}
        info = yield from box.busy.follow(request, "Looking at it", steps)
        text = f"{info.name} is in the list: ask it in Compare, or choose it above to export it."
        yield {box.notice: markup.note(text, "good"), box.source: "", box.name: ""}

    box.button.click(
        with_notice_while(studio, box.notice, bring, box.busy.idle), [box.upload, box.source, box.base, box.name],
        [box.notice, box.upload, box.source, box.name, box.busy.said], **QUEUED,
    ).then(**reopen)  # fmt: skip
