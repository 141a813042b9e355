"""The evaluation views of the Compare tab: scores and table of a run.

TITLES are the choices after "Chat". `build_more` builds a column for each, whose elem_id is `compare-` and the title in
lower case; the style sheet decides which one is shown.
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
    """Build the evaluation views. who: the dropdowns of the sides, each with the value `base`, `RUN` or `RUN@STEP`."""
    with gr.Column(elem_id="compare-scores"):
        view("", markup.heading("Did it get better?", "Base and adapted on the same prompts and the same tokens."))
        run = gr.Dropdown([], label="Run", elem_id="evaluate-run", filterable=False)
        scores = scores_view.build(studio, run)
    with gr.Column(elem_id="compare-table"):
        scores_view.build_table(studio, scores)

    def take_over(*chosen: str | None) -> Updates:
        """Select the first run among the sides as the one to evaluate."""
        infos = [info for info in runs.list_runs(studio) if info.has_adapter]
        keys = [key.partition("@")[0] for key in chosen if key and key != participants.BASE]
        value = next((info.id for key in keys for info in infos if info.id == key), infos[0].id if infos else None)
        return {run: gr.update(choices=[(info.name, info.id) for info in infos], value=value)}

    gr.on(
        [side.change for side in who], take_over, list(who), run,
        show_progress="hidden", queue=False, api_visibility=PRIVATE,
    )  # fmt: skip
