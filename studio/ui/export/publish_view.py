"""Publish on the Export page: shows what would be uploaded first; private unless chosen otherwise."""

import re
from collections.abc import Iterator

import gradio as gr

from studio.errors import BadInput, StudioError
from studio.services.core.studio import Studio
from studio.services.exports import exports, publishing
from studio.services.exports.publishing import Preview, PublishRequest
from studio.ui.parts import busy, markup
from studio.ui.parts.handlers import QUEUED, Updates, view, with_notice, with_notice_while
from studio.ui.parts.templates import render

_SHOWN = 12


def build(studio: Studio, done: gr.HTML) -> None:
    """Build the box and wire its events. done: the list of exports, whose data-publish clicks open it."""
    with gr.Column(elem_id="publish"):
        view("", markup.heading("Publish on the Hugging Face hub", "Check what will be uploaded, then publish it."))
        preview_html = view("publish-what")
        with gr.Row(elem_classes="combine-row"):
            repo = gr.Textbox(label="Repository", placeholder="NAME or OWNER/NAME", elem_id="publish-repo", scale=3,
                              max_length=200)  # fmt: skip
            token_hint = "Leave empty to use this machine's HF_TOKEN. " if not publishing.needs_token(studio) else ""
            token = gr.Textbox(label="Token with write access", type="password", elem_id="publish-token", scale=3,
                               max_length=500, info=f"{token_hint}Used once and not stored.")  # fmt: skip
        public = gr.Checkbox(False, label="Public: visible to everyone", elem_id="publish-public")
        update = gr.Checkbox(False, label="Update an existing repository", elem_id="publish-update")
        notice = view("publish-notice")
        working = busy.build("publish")
        button = gr.Button("Publish", variant="primary", elem_id="publish-go")
    chosen, agreed = gr.State(""), gr.State(None)

    def seen(export: str, publish_request: PublishRequest) -> Updates:
        """Show what would be uploaded, and remember that it was shown."""
        what = _what(
            studio, export, publishing.preview(studio, export, publish_request), exports.get(studio, export).source
        )
        return {preview_html: what, agreed: (export, publish_request)}

    def open_for(event: gr.EventData) -> Updates:
        if not hasattr(event, "publish"):
            return {preview_html: gr.skip()}
        info = exports.get(studio, event.publish)
        name = re.sub(r"[^\w.-]+", "-", f"{info.source}-{info.kind}").strip("-.")[:90]
        return {chosen: info.id, repo: name, public: False, update: False, **seen(info.id, PublishRequest(name))}

    def look(export: str, name: str, for_all: bool, update_existing: bool) -> Updates:
        return (
            seen(export, PublishRequest(name.strip(), for_all, update_existing))
            if export
            else {preview_html: gr.skip()}
        )

    def send(
        request: gr.Request, export: str, reviewed: object, name: str, secret: str, for_all: bool, update_existing: bool
    ) -> Iterator[Updates]:
        if not export:
            raise BadInput("Choose an export first: press Publish on a finished one.")
        publish_request = PublishRequest(name.strip(), for_all, update_existing)
        if reviewed != (export, publish_request):
            yield {
                **seen(export, publish_request),
                notice: markup.note("Review what will be uploaded, then press Publish again."),
            }
            return
        yield {notice: "", token: ""}
        published = yield from working.follow(
            request, "Contacting the hub", publishing.publish(studio, export, publish_request, secret or "")
        )
        who = "private" if published.private else "public"
        yield {
            **seen(export, publish_request),
            notice: markup.note(f"Published at {published.url}, {who}.", "good"),
        }

    # The choice is a gr.State: only queued events notify the page that it changed.
    opened = [notice, chosen, agreed, repo, preview_html, public, update]
    done.click(with_notice(studio, notice, open_for), None, opened, **QUEUED)
    gr.on(
        [repo.change, public.change, update.change], with_notice(studio, notice, look), [chosen, repo, public, update],
        [notice, preview_html, agreed], trigger_mode="always_last", **QUEUED,
    )  # fmt: skip
    button.click(
        with_notice_while(studio, notice, send, working.idle), [chosen, agreed, repo, token, public, update],
        [notice, token, preview_html, agreed, working.said], **QUEUED,
    )  # fmt: skip


def _what(studio: Studio, export: str, preview: Preview, source: str) -> str:
    """What is uploaded where, and what was published before."""
    return render("export/publish.html", preview=preview, source=source, shown=_SHOWN, earlier=_earlier(studio, export))


def _earlier(studio: Studio, export: str) -> list[publishing.Published]:
    try:
        return publishing.published(studio, export)
    except StudioError:
        return []
