"""Fields and buttons of the Compare tab's conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.services.chat.chat import Sampling
from studio.ui.compare import evaluation_fold
from studio.ui.parts.handlers import view


@dataclass(frozen=True)
class Talk:
    """The components of the conversation.

    shown: redrawn when the conversation changes; past: the conversation itself.
    """

    sides: list[gr.Dropdown]
    blind: gr.Checkbox
    marked: gr.Checkbox
    earlier: gr.HTML
    answers: gr.HTML
    notice: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    retry: gr.Button
    edit: gr.Button
    anew: gr.Button
    links: gr.HTML
    shelf: gr.HTML
    system: gr.Textbox
    sampling: dict[str, gr.Number]
    memory: gr.HTML
    free: gr.Button
    past: gr.State
    memory_seen: gr.State
    draft: gr.BrowserState
    kept: gr.BrowserState

    @property
    def shown(self) -> list[Any]:
        return [self.earlier, self.answers, self.links, self.memory, self.memory_seen]


def build() -> Talk:
    """Build the column `compare`."""
    past, memory_seen = gr.State(None), gr.State("")
    draft = gr.BrowserState("", storage_key="lora-studio-question", secret="draft of the question")  # noqa: S106 - none
    kept = gr.BrowserState("", storage_key="lora-studio-comparison", secret="id of the comparison")  # noqa: S106 - none
    with gr.Column(elem_id="compare"):
        with gr.Row(elem_id="compare-head", equal_height=False):
            chosen = [
                gr.Dropdown([], label=label, elem_id=f"side-{place}", min_width=180, scale=3)
                for place, label in enumerate(("Side 1", "Side 2", "Side 3"), 1)
            ]
            blind = gr.Checkbox(False, label="Blind", elem_id="blind", min_width=90, scale=1)
            marked = gr.Checkbox(False, label="Mark differences", elem_id="differences", min_width=150, scale=1)
        gr.Radio(
            ["Chat", *evaluation_fold.TITLES], value="Chat", show_label=False, interactive=True, elem_id="compare-view"
        )
        with gr.Column(elem_id="compare-chat"):
            earlier = view("earlier", picks=True)
            answers = view("answers", picks=True)
            notice = view("compare-notice")
            with gr.Row(elem_id="talk-acts"):
                retry = gr.Button("Retry", size="sm", elem_id="retry", min_width=80)
                edit = gr.Button("Edit question", size="sm", elem_id="edit-question", min_width=120)
                anew = gr.Button("New conversation", size="sm", elem_id="new-comparison", min_width=120)
                links = view("comparison-links")
            with gr.Row(elem_id="ask-row", equal_height=False):
                question = gr.Textbox(
                    label="Question",
                    lines=2,
                    max_lines=8,
                    scale=8,
                    elem_id="question",
                    min_width=200,
                    placeholder="Ask all sides the same thing",
                    submit_btn=False,
                )
                ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=90)
                stop = gr.Button("Stop", variant="stop", elem_id="stop-answer", scale=1, min_width=90)
            shelf = view("held-out", picks=True)
            # Gradio does not mount the contents of a closed accordion, so the fields would lose their values.
            gr.Checkbox(False, label="System prompt and sampling", elem_id="sampling-fold", container=False)
            with gr.Column(elem_id="sampling"):
                system = gr.Textbox(
                    label="System prompt",
                    lines=2,
                    max_lines=8,
                    elem_id="system-prompt",
                    info="Replaces the recipe's system prompt. Leave empty to keep the recipe's.",
                )
                with gr.Row(elem_classes="fields three"):
                    knobs = _sampling()
            with gr.Row(elem_id="memory-row"):
                memory = view("chat-memory")
                free = gr.Button("Free memory", size="sm", elem_id="free-memory", min_width=120)
    return Talk(
        chosen, blind, marked, earlier, answers, notice, question, ask, stop, retry, edit, anew, links, shelf, system,
        knobs, memory, free, past, memory_seen, draft, kept,
    )  # fmt: skip


def sampling(values: Sequence[float | None]) -> Sampling:
    """The sampling settings of the fields; an empty field takes its default."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
    given: dict[str, Any] = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    for name, (low, high) in _BOUNDS.items():
        if name in given and not low <= given[name] <= high:
            raise BadInput(f"{_LABELS[name]} must be a number from {low:g} to {high:g}, not {given[name]:g}.")
    whole = {name: int(given[name]) for name in ("max_new_tokens", "top_k", "seed") if name in given}
    return Sampling(**(given | whole))


_BOUNDS = {
    "max_new_tokens": (1, 8192), "temperature": (0, 5), "top_p": (0.01, 1), "top_k": (0, 1_000_000),
    "repetition_penalty": (0.1, 5), "seed": (0, 2**63 - 1),
}  # fmt: skip
_LABELS = {
    "max_new_tokens": "Maximum answer length", "temperature": "Temperature", "top_p": "Top p", "top_k": "Top k",
    "repetition_penalty": "Repetition penalty", "seed": "Seed",
}  # fmt: skip


def _sampling() -> dict[str, gr.Number]:
    return {
        "max_new_tokens": gr.Number(
            256, label="Maximum answer length (tokens)", precision=0, minimum=1, maximum=8192, elem_id="longest-answer"
        ),
        "temperature": gr.Number(
            0.0,
            label="Temperature",
            info="0 always picks the most likely token; 0.7 to 1 gives more varied answers.",
            minimum=0,
            maximum=5,
            step=0.1,
            elem_id="temperature",
        ),
        "top_p": gr.Number(
            1.0,
            label="Top p",
            info="0.9 samples from the smallest set of tokens holding 90% of the probability.",
            minimum=0.01,
            maximum=1,
            step=0.05,
        ),
        "top_k": gr.Number(
            0, label="Top k", info="Samples from the k most likely tokens; 0 is no limit.", precision=0, minimum=0
        ),
        "repetition_penalty": gr.Number(
            1.0,
            label="Repetition penalty",
            info="1 is no penalty. Raise to about 1.1 when answers repeat themselves.",
            minimum=0.1,
            maximum=5,
            step=0.05,
        ),
        "seed": gr.Number(
            0,
            label="Seed",
            info="The same seed and settings give the same answer.",
            precision=0,
            minimum=0,
            elem_id="seed",
        ),
    }
