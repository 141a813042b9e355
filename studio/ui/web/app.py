"""The whole page: header, sidebar, five tabs, and the links between tabs.

The address holds what is open (`?tab=runs&run=…&dataset=…`); static/studio.js writes it, `arrive` reads it.
"""

from typing import Any

import gradio as gr

from studio.services.chat import chat, comparisons, participants
from studio.services.core.identity import EVERYONE, Visitor, acting
from studio.services.core.studio import Studio
from studio.services.runs import run_list, runs
from studio.ui import sidebar
from studio.ui.compare import tab as compare_tab
from studio.ui.data import tab as data_tab
from studio.ui.export import tab as export_tab
from studio.ui.gradio_compat.page import Page, calm
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates, view
from studio.ui.parts.templates import render
from studio.ui.runs import tab as runs_tab
from studio.ui.train import form
from studio.ui.train import tab as train_tab
from studio.ui.web import api
from studio.ui.web.auth import VisitorSessions

TABS = ("data", "train", "runs", "compare", "export")
_READ_ONLY = "Another studio is using this home, so this page is read-only. Close the other studio to work here."


def build(studio: Studio, desk: VisitorSessions | None = None) -> gr.Blocks:
    """The whole page for one studio. desk: how visitors are identified in a shared studio; None for a single user."""
    if desk is None:
        return _built(studio, None)
    # The initial page is the same for all visitors, so it may contain only what belongs to everyone.
    with acting(Visitor(EVERYONE)):
        return _built(studio, desk)


def _built(studio: Studio, desk: VisitorSessions | None) -> gr.Blocks:
    with Page(title="LoRA Studio", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        api.build(studio)  # first, so that the API keeps its names and same-named handlers of the page get others
        view("top", render("web/header.html"))
        nowhere = view("nowhere")
        changed = train_tab.waker()
        if not studio.keeping:
            view("read-only", markup.note(_READ_ONLY, "warn"))
        side = sidebar.build(studio)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Data", id="data") as tab_data:
                data = data_tab.build(studio)
            with gr.Tab("Train", id="train") as tab_train:
                train = train_tab.build(studio, changed)
            with gr.Tab("Runs", id="runs") as tab_runs:
                runs_page = runs_tab.build(studio)
            with gr.Tab("Compare", id="compare") as tab_compare:
                compare = compare_tab.build(studio, runs_page.run)
            with gr.Tab("Export", id="export") as tab_export:
                export = export_tab.build(studio, runs_page.run)
        first_run = gr.State("")  # the sample's run: Compare opens if it completes while shown

        quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}

        def arrive(request: gr.Request) -> Updates:
            """Open what the address names."""
            asked = dict(request.query_params)
            tab = "runs" if "run" in asked and "tab" not in asked else asked.get("tab", "data")
            return {
                # Data is open by default, unless the user has already opened another tab.
                tabs: gr.Tabs(selected=tab) if tab in TABS and tab != "data" else gr.skip(),
                runs_page.run: asked.get("run", ""),
                data.chosen: asked.get("dataset", ""),
            }

        def show_run(run: str) -> Updates:
            return {tabs: gr.Tabs(selected="runs"), runs_page.run: run}

        def after_start(run: str) -> Updates:
            """Open a started run; for the very first run, remember it so that its end opens Compare."""
            if not run:
                return {tabs: gr.skip()}
            return show_run(run) | {train.started: "", first_run: run if run_list.count(studio) == 1 else ""}

        def open_name(event: gr.EventData) -> Updates:
            return show_run(event.open) if hasattr(event, "open") else {tabs: gr.skip()}

        def use_dataset(dataset: str, kept: dict[str, Any], *seen: Any) -> Updates:
            """Fill the form with this dataset, and the model and formatting used to view it."""
            values = (kept or form.defaults()) | data_tab.example_as_model_sees_it(studio, dataset, *seen)
            fields = train.form.fields
            filled = {fields[name]: form.for_form(name, value) for name, value in values.items() if name in fields}
            filled[fields["dataset"]] = gr.update(choices=form.names_of("dataset", studio), value=values["dataset"])
            # Update the draft too, since opening the tab fills the form from it.
            return {tabs: gr.Tabs(selected="train"), train.draft: values, **filled}

        def clone(run: str) -> Updates:
            """Fill the form with the recipe of a run, without its name."""
            values = form.values_of(runs.recipe_of(studio, run)) | {"name": ""}
            fields = train.form.fields
            filled = {fields[name]: form.for_form(name, value) for name, value in values.items()}
            return {tabs: gr.Tabs(selected="train"), train.draft: values, **filled}

        def ask_adapter(event: gr.EventData) -> Updates:
            """Open Compare with an adapter next to its base, in a new conversation."""
            if not hasattr(event, "ask"):
                return {tabs: gr.skip()}
            choices = [("Base", participants.BASE), *participants.choices(studio)]
            first, second, third = compare.sides
            chosen = {
                first: gr.update(choices=choices, value=participants.BASE),
                second: gr.update(choices=choices, value=event.ask),
                third: gr.update(choices=[("None", ""), *choices], value=""),
            }
            return {tabs: gr.Tabs(selected="compare"), compare.past: comparisons.new_comparison(), **chosen}

        def when_first_ends(ended: str, first: str) -> Updates:
            """When the first run completes while it is open, open Compare with a held-out prompt."""
            if not first or ended != first or runs.get(studio, first).state != "completed":
                return {first_run: gr.skip()}
            prompts = chat.held_out_prompts(studio, first)
            return {first_run: "", tabs: gr.Tabs(selected="compare"), compare.question: prompts[0] if prompts else ""}

        tab_data.select(**data.revisit)
        tab_train.select(**train.recall).then(**train.reopen).then(**train.update)
        tab_runs.select(**runs_page.reopen)
        tab_compare.select(**compare.begun).then(**compare.reopen)
        tab_export.select(**export.reopen)
        page.load(arrive, None, [tabs, runs_page.run, data.chosen], **quiet).then(**data.reopen)
        page.load(**side.refresh)

        train.started.change(after_start, train.started, [tabs, runs_page.run, train.started, first_run], **quiet).then(
            **runs_page.reopen)  # fmt: skip
        side.now.click(open_name, None, [tabs, runs_page.run], **quiet).then(**runs_page.reopen)
        cloned = [tabs, train.draft, *train.form.fields.values()]
        taken = [data.chosen, train.draft, *data.seen_by]
        data.train.click(use_dataset, taken, cloned, **quiet).then(**train.update)
        runs_page.clone.click(clone, runs_page.run, cloned, **quiet).then(**train.update)
        runs_page.ended.change(
            when_first_ends, [runs_page.ended, first_run], [first_run, tabs, compare.question], **quiet
        )
        export.store.click(ask_adapter, None, [tabs, compare.past, *compare.sides], **quiet)
        for button, name in ((runs_page.train, "train"), (compare.train, "train"), (export.train, "train"),
                             (runs_page.compare, "compare"), (runs_page.export, "export")):  # fmt: skip
            button.click(lambda name=name: gr.Tabs(selected=name), None, tabs, **quiet)
    page.asking = desk.asking if desk else None
    page.queue(max_size=64, default_concurrency_limit=4)
    calm(page, nowhere)
    return page
