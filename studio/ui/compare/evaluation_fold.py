"""What Compare shows beside the conversation: evaluations of a run, as scores and as a table.

TITLES are the choices behind "Chat". `build_more` builds a column for each, with the elem_id `compare-` and the title
in small letters; which of them is there is decided by the style sheet.
"""

from collections.abc import Sequence

import gradio as gr

from studio.services.chat import participants
from studio.services.core.studio import Studio
from studio.services.runs import runs
from studio.ui.compare import scores_view
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Updates, view

TITLES: tuple[str, ...] = ("Scores", "Table")


def build_more(studio: Studio, who: Sequence[gr.Dropdown]) -> None:
    """The further views; `who` are the choices of who answers, `base`, `RUN` or `RUN@STEP` each."""
    with gr.Column(elem_id="compare-scores"):
        view("", markup.heading("Did it get better?", "Base and adapted on the same prompts and the same tokens."))
        run = gr.Dropdown([], label="Run", elem_id="evaluate-run", filterable=False)
        scores = scores_view.build(studio, run)
    with gr.Column(elem_id="compare-table"):
        scores_view.build_table(studio, scores)

    def take_over(*chosen: str | None) -> Updates:
        """The run among the sides is the one to evaluate."""
        able = [info for info in runs.list_runs(studio) if info.has_adapter]
        wanted = [key.partition("@")[0] for key in chosen if key and key != participants.BASE]
        value = next((info.id for key in wanted for info in able if info.id == key), able[0].id if able else None)
        return {run: gr.update(choices=[(info.name, info.id) for info in able], value=value)}

    gr.on(
        [side.change for side in who], take_over, list(who), run,
        show_progress="hidden", queue=False, api_visibility=PRIVATE,
    )  # fmt: skip
