"""Adding a base model: the sample, a local folder or a hub id, with progress."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass

import gradio as gr

from studio.errors import BadInput
from studio.services.core.studio import Studio
from studio.services.models import models
from studio.ui.parts import markup, units
from studio.ui.parts.handlers import PRIVATE, Updates, view, with_notice_while
from studio.ui.parts.templates import render

_PAUSE = 0.4  # seconds between two checks of the progress


@dataclass(frozen=True)
class ModelBox:
    """The event of an added model: `added` holds the model's id."""

    added: gr.State


def build(studio: Studio) -> ModelBox:
    """Build a fold with a field for the source and a button."""
    added = gr.State("")
    with gr.Accordion("Add a base model", open=False, elem_classes="fold", elem_id="add-model-fold"):
        source = gr.Textbox(label="Folder or hub id", elem_id="model-source", placeholder=models.SAMPLE,
                            info="A folder with safetensors on this machine, or OWNER/NAME on the Hugging Face hub. "
                            f"{models.SAMPLE} is the sample: 135 M parameters, about 270 MB.")  # fmt: skip
        add = gr.Button("Add model", size="md", elem_id="add-model")
        progress = view("model-progress")

    def fetch(wanted: str) -> Iterator[Updates]:
        if not wanted.strip():
            raise BadInput(f"Enter a folder or a hub id, or {models.SAMPLE} for the sample model.")
        yield {add: gr.update(interactive=False)}
        for text in arriving(studio, wanted.strip()):
            yield {progress: text}
        yield {progress: markup.note(f"{wanted} is ready.", "good"), source: "", added: wanted.strip()}

    add.click(with_notice_while(studio, progress, fetch, {add: gr.update(interactive=True)}), source,
              [progress, add, source, added], api_visibility=PRIVATE, concurrency_limit=1,
              show_progress="hidden")  # fmt: skip
    return ModelBox(added)


def arriving(studio: Studio, source: str) -> Iterator[str]:
    """Add a model, which takes a while; yields progress as HTML. Raises the error if adding fails."""
    updates: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(1, thread_name_prefix="add-model")
    # In the caller's context, since it holds the visitor the model will belong to.
    context = copy_context()
    work = pool.submit(context.run, models.add, studio, source, lambda what, done, of: updates.put((what, done, of)))
    pool.shutdown(wait=False)  # if the page is closed, the model is still added
    last: tuple[str, int, int] | None = None
    while not work.done():
        wait([work], timeout=_PAUSE)
        while not updates.empty():
            last = updates.get()
        if last is not None:
            yield step(*last)
    work.result()


def step(what: str, done: int, of: int) -> str:
    """One line of progress, with a bar if the total is known."""
    share = "" if not of else units.share_of(done, of) if of >= 2**20 else f"{done} of {of}"
    return render("train/arriving.html", what=what, share=share, done=done, of=of)
