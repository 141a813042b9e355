"""The Data tab: the list of datasets, a place to add one, and four steps that show any of them.

What is shown is identified by a key: the id of a dataset, or the token of a checked file that is not added yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.data.checks import OutOfTurn, Undecodable
from studio.ui.data import adding, adding_view, decisions, steps
from studio.ui.data import view as data_view
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, QUEUED, Step, Updates, view, with_notice


@dataclass(frozen=True)
class DataTab:
    """What other tabs need: the key of what is shown, the button that trains on it, the model and formatting used to
    view it, and the steps that show the tab from the beginning and that refresh it.
    """

    chosen: gr.State
    train: gr.Button
    seen_by: list[Any]
    reopen: Step
    revisit: Step


def build(studio: Studio) -> DataTab:
    """Build the tab's components and wire their events."""
    chosen, pending, waiting = gr.State(""), gr.State(""), gr.State("")
    with gr.Row(equal_height=False, elem_id="data-columns"):
        with gr.Column(scale=3, min_width=270, elem_id="data-side"):
            view("", markup.heading("Datasets"))
            drop = adding_view.build_drop(online=not studio.settings.offline)
            shelf = view("dataset-list", picks=True)
        with gr.Column(scale=9, min_width=300, elem_id="data-main"):
            bar = adding_view.build_bar()
            head = view("dataset-view", data_view.blank())
            train = gr.Button("Train on this dataset", elem_id="train-on", size="md")
            what = view("what-it-is", picks=True)
            reading = adding_view.build_reading()
            four = steps.build()
    whole = [chosen, pending, waiting, shelf, head, what, *bar.parts, *reading.parts, *four.parts]

    def show(key: str, picked: str | None, held: str) -> Updates:
        """All updates for a dataset or checked file. held: the check waiting to be added, shown or not."""
        infos = datasets.list_datasets(studio)
        checked = data_view.check_of(studio, key)
        info = None if checked else next((item for item in infos if item.id == key), next(iter(infos), None))
        held = key if checked else held
        shown: Updates = {
            pending: held,
            waiting: "",
            reading.notice: "",
            four.model: steps.models_here(studio, picked),
        }
        if checked:
            ready = checked.report.format is not None
            shown |= adding_view.shown(bar, reading, checked)
            shown |= steps.shown(studio, four, key, checked.report.ok) if ready else steps.hidden(four)
            shown |= {chosen: key, head: data_view.head_of_check(checked), what: data_view.what_of_check(checked)}
        elif info:
            shown |= steps.shown(studio, four, info.id, info.rows)
            shown |= {chosen: info.id, head: data_view.head(info), what: data_view.what(info, infos)}
        else:
            shown |= steps.hidden(four)
            shown |= {chosen: "", head: data_view.nothing(), what: ""}
        return shown | {
            shelf: data_view.shelf(infos, key if checked else info.id if info else "", data_view.check_of(studio, held))
        }

    def ask(path: str, error: Undecodable | OutOfTurn, held: str) -> Updates:
        """A file that cannot be read without a decision: only the choice of its encoding, or ways to mend its turns."""
        undecodable = isinstance(error, Undecodable)
        return {
            chosen: "",
            waiting: path,
            shelf: data_view.shelf(datasets.list_datasets(studio), "", data_view.check_of(studio, held)),
            head: data_view.title(Path(path).name, "decoding" if undecodable else "refused"),
            what: data_view.what_undecodable(error) if undecodable else data_view.what_out_of_turn(error),
            **steps.hidden(four),
            **(adding_view.undecodable(reading, error) if isinstance(error, Undecodable) else {reading.notice: ""}),
        }

    def pick(event: gr.EventData, picked: str | None, held: str) -> Updates:
        return show(event.id, picked, held)

    def revisit(key: str, picked: str | None, held: str) -> Updates:
        """Refresh what may have changed in another tab: datasets and models."""
        infos = datasets.list_datasets(studio)
        return {
            shelf: data_view.shelf(infos, key, data_view.check_of(studio, held)),
            four.model: steps.models_here(studio, picked),
        }

    def show_new(key: str, held: str = "") -> Updates:
        """`show` for a new key; the selected model stays."""
        return {part: value for part, value in show(key, None, held).items() if part is not four.model}

    adding.wire(studio, drop, bar, reading, adding.Keys(chosen, pending, waiting), show_new, ask, whole)
    for clicked, notice, progress in (
        (what, reading.notice, reading.busy),
        (four.wrong.mending, four.wrong.notice, four.wrong.leaving),
    ):
        decisions.wire(studio, clicked, [chosen, waiting], notice, progress, show_new, whole)
    steps.wire(studio, four, pending, show_new, whole)
    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    view_inputs = [four.model, pending]
    shelf.click(with_notice(studio, drop.notice, pick), view_inputs, [drop.notice, *whole], **QUEUED)
    asked = [chosen, four.model, pending]
    return DataTab(
        chosen=chosen,
        train=train,
        seen_by=[four.model, *four.how],
        reopen={
            "fn": with_notice(studio, drop.notice, show),
            "inputs": asked,
            "outputs": [drop.notice, *whole],
            **QUEUED,
        },
        revisit={"fn": revisit, "inputs": asked, "outputs": [shelf, four.model], **quiet},
    )


def example_as_model_sees_it(studio: Studio, dataset: str, model: str | None, *how: Any) -> dict[str, Any]:
    """Recipe values matching how the dataset with this id is viewed. how: as Steps.how."""
    named = {"dataset": datasets.get(studio, dataset).name} | ({"model": model} if model else {})
    return named | data_view.shaping(*how)
