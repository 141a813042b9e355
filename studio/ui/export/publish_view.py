"""Publish on the Export page: what would go up is shown before anything does; private unless it is said otherwise."""

import re
from collections.abc import Iterator

import gradio as gr

from studio.errors import BadInput, StudioError
from studio.services.core.studio import Studio
from studio.services.exports import exports, publishing
from studio.services.exports.publishing import Preview, PublishRequest
from studio.ui.parts import busy, markup, units
from studio.ui.parts.handlers import QUEUED, Updates, view, with_notice, with_notice_while
from studio.ui.parts.markup import esc

_SHOWN = 12


def build(studio: Studio, done: gr.HTML) -> None:
    """The box and what happens in it. done: the list of exports, whose clicks with data-publish open it."""
    with gr.Column(elem_id="publish"):
        view("", markup.heading("Publish on the Hugging Face hub", "Check what goes up, then send it."))
        said = view("publish-what")
        with gr.Row(elem_classes="combine-row"):
            repo = gr.Textbox(label="Repository", placeholder="NAME or OWNER/NAME", elem_id="publish-repo", scale=3,
                              max_length=200)  # fmt: skip
            own = "Empty: HF_TOKEN of this machine. " if not publishing.needs_token(studio) else ""
            token = gr.Textbox(label="Token with write access", type="password", elem_id="publish-token", scale=3,
                               max_length=500, info=f"{own}Used for this once and not kept.")  # fmt: skip
        public = gr.Checkbox(False, label="Public: everyone can see it", elem_id="publish-public")
        update = gr.Checkbox(False, label="The repository is there already: update it", elem_id="publish-update")
        notice = view("publish-notice")
        working = busy.build("publish")
        button = gr.Button("Publish", variant="primary", elem_id="publish-go")
    chosen, agreed = gr.State(""), gr.State(None)

    def seen(export: str, wish: PublishRequest) -> Updates:
        """What would go up, and that this is what was looked at."""
        what = _what(studio, export, publishing.preview(studio, export, wish), exports.get(studio, export).source)
        return {said: what, agreed: (export, wish)}

    def open_for(event: gr.EventData) -> Updates:
        if not hasattr(event, "publish"):
            return {said: gr.skip()}
        info = exports.get(studio, event.publish)
        name = re.sub(r"[^\w.-]+", "-", f"{info.source}-{info.kind}").strip("-.")[:90]
        return {chosen: info.id, repo: name, public: False, update: False, **seen(info.id, PublishRequest(name))}

    def look(export: str, name: str, for_all: bool, there: bool) -> Updates:
        return seen(export, PublishRequest(name.strip(), for_all, there)) if export else {said: gr.skip()}

    def send(
        request: gr.Request, export: str, looked: object, name: str, secret: str, for_all: bool, there: bool
    ) -> Iterator[Updates]:
        if not export:
            raise BadInput("Choose an export first: press Publish at one that is finished.")
        wish = PublishRequest(name.strip(), for_all, there)
        if looked != (export, wish):
            yield {**seen(export, wish), notice: markup.note("Look at what goes up now, then press Publish again.")}
            return
        yield {notice: "", token: ""}
        made = yield from working.follow(
            request, "Asking the hub", publishing.publish(studio, export, wish, secret or "")
        )
        yield {**seen(export, wish), notice: markup.note(f"It is at {made.url}, {_who(made.private)}.", "good")}

    # The choice is a gr.State: only queued events tell the page of it.
    opened = [notice, chosen, agreed, repo, said, public, update]
    done.click(with_notice(studio, notice, open_for), None, opened, **QUEUED)
    gr.on(
        [repo.change, public.change, update.change], with_notice(studio, notice, look), [chosen, repo, public, update],
        [notice, said, agreed], trigger_mode="always_last", **QUEUED,
    )  # fmt: skip
    button.click(
        with_notice_while(studio, notice, send, working.idle), [chosen, agreed, repo, token, public, update],
        [notice, token, said, agreed, working.said], **QUEUED,
    )  # fmt: skip


def _who(private: bool) -> str:
    return "private" if private else "public"


def _what(studio: Studio, export: str, told_of: Preview, source: str) -> str:
    """What goes where; the mark `publish-of` is what the style sheet shows the box by."""
    rows = [(f"<code>{esc(name)}</code>", esc(units.size(size))) for name, size in told_of.files[:_SHOWN]]
    more = len(told_of.files) - _SHOWN
    rows += [(f"and {more} more", "")] if more > 0 else []
    head = (
        f"<p>{esc(source)} goes to <b>{esc(told_of.hub)}/{esc(told_of.repo)}</b>, <b>{_who(told_of.private)}</b>: "
        f"{esc(units.size(told_of.size))} in {len(told_of.files)} files.</p>"
    )
    warnings = "".join(markup.note(text, "warn") for text in told_of.warnings)
    earlier = "".join(
        f'<p class="path">Published {esc(units.exact(one.time))}: {esc(one.url)}, {_who(one.private)}</p>'
        for one in _earlier(studio, export)
    )
    table = markup.table(("File", "Size"), rows, "What goes up")
    return f'<div class="publish-of">{head}{table}{warnings}{earlier}</div>'


def _earlier(studio: Studio, export: str) -> list[publishing.Published]:
    try:
        return publishing.published(studio, export)
    except StudioError:
        return []
