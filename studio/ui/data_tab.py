"""Data: the datasets there are, a place to add one, and what the model sees of each."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from studio.recipe import find_field
from studio.services import datasets, models
from studio.services.datasets import DatasetInfo, FileLook
from studio.services.studio import Studio
from studio.ui import markup, tokens, units
from studio.ui.handlers import PRIVATE, Step, Updates, told, view
from studio.ui.markup import esc

PAGE = 25
_FIELDS = ("instruction", "input", "output", "system")


@dataclass(frozen=True)
class DataTab:
    """What other tabs need: the chosen dataset's id, the button that trains on it, the steps that show the tab."""

    chosen: gr.State
    train: gr.Button
    reopen: Step
    see: Step


def build(studio: Studio) -> DataTab:
    """The tab's components and what happens in them."""
    chosen = gr.State("")
    with gr.Row(equal_height=False, elem_id="data-columns"):
        with gr.Column(scale=3, min_width=280, elem_id="data-side"):
            view("", markup.heading("Datasets"))
            shelf = view("dataset-list", picks=True)
            upload = gr.File(
                label="Add a file: JSONL, JSON or CSV",
                file_types=[".jsonl", ".json", ".csv"],
                type="filepath",
                height=132,
                elem_id="dataset-file",
            )
            notice = view("data-notice")
            with gr.Column(visible=False, elem_id="adding") as adding:
                look = view("file-look")
                with gr.Row(visible=False, elem_classes="fields two") as mapping:
                    columns = [
                        gr.Dropdown([], label=_label(name), min_width=120, elem_id=f"map-{name}") for name in _FIELDS
                    ]
                name = gr.Textbox(label="Name", elem_id="dataset-name", max_length=80)
                add = gr.Button("Add dataset", variant="primary", elem_id="add-dataset")
        with gr.Column(scale=7, min_width=300, elem_id="data-main"):
            head = view("dataset-view")
            train = gr.Button("Train on this dataset", elem_id="train-on", size="md")
            view("", markup.heading("What the model sees", "One example in tokens. Only the underlined are learned."))
            with gr.Row(elem_classes="fields four", elem_id="see-controls"):
                row = gr.Number(1, label="Example", precision=0, min_width=90, elem_id="see-row")
                template = gr.Radio(
                    list(find_field("template").choices),
                    value="chat",
                    label="Template",
                    min_width=150,
                    elem_id="see-template",
                )
                length = gr.Slider(
                    8, 4096, value=1024, step=8, label="Maximum length", min_width=180, elem_id="see-length"
                )
                model = gr.Dropdown([], label="Model", min_width=160, elem_id="see-model", filterable=False)
            seen = view("token-view")
            view("", markup.heading("Examples"))
            rows = view("rows", picks=True)

    def show(dataset: str, picked: str | None) -> Updates:
        """Everything of one dataset, from its first example on."""
        known = datasets.list_datasets(studio)
        info = next((item for item in known if item.id == dataset), known[0] if known else None)
        options = [item.id for item in models.list_models(studio)]
        found: Updates = {shelf: _shelf(known, info), train: gr.update(visible=info is not None), row: 1}
        found[model] = gr.update(choices=options, value=picked if picked in options else next(iter(options), None))
        if info is None:
            return found | {
                chosen: "",
                head: markup.empty("No dataset yet", "Drop a file of examples on the left."),
                rows: "",
                seen: "",
            }
        return found | {chosen: info.id, head: _head(info), rows: _rows(studio, info, 0)}

    def pick(picked: str | None, event: gr.EventData) -> Updates:
        return show(event.id, picked)

    def see(dataset: str, which: float | None, kind: str, cut: float, picked: str | None) -> Updates:
        if not dataset or not picked:
            return {seen: "" if not dataset else markup.note("No model is here yet to cut the text into tokens.")}
        values = {"template": kind, "max_length": int(cut)}
        return {seen: tokens.strip(datasets.see(studio, dataset, int(which or 1), picked, values), int(cut))}

    def look_at(path: str) -> Updates:
        found = datasets.look_at(studio, path)
        unknown = found.format is None
        shown: Updates = {adding: gr.update(visible=True), look: _look(found), mapping: gr.update(visible=unknown)}
        for field, column in zip(_FIELDS, columns, strict=True):
            choices = [("none", ""), *((name, name) for name in found.columns)]
            shown[column] = gr.update(choices=choices, value=found.mapping.get(field, ""))
        return shown | {name: _stem(path)}

    def keep(path: str, called: str, picked: str | None, *mapped: str) -> Updates:
        pairs = {field: column for field, column in zip(_FIELDS, mapped, strict=True) if column}
        unknown = datasets.look_at(studio, path).format is None
        info = datasets.add(studio, path, called.strip() or None, pairs if unknown else None)
        Path(path).unlink(missing_ok=True)  # what was uploaded lay where any client that knows its path could read it
        done = {upload: None, adding: gr.update(visible=False), notice: markup.note(f"{info.name} is added.", "good")}
        return show(info.id, picked) | done

    def turn(dataset: str, event: gr.EventData) -> Updates:
        if "row" in event._data:
            return {row: int(event.row)}
        return {rows: _rows(studio, datasets.get(studio, dataset), int(event.offset))}

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    whole = [shelf, head, train, rows, seen, chosen, row, model]
    seeing: Step = {
        "fn": told(seen, see),
        "inputs": [chosen, row, template, length, model],
        "outputs": seen,
        "trigger_mode": "always_last",
        **quiet,
    }
    gr.on([row.change, template.input, length.change, model.input], **seeing)
    shelf.click(told(notice, pick), model, [notice, *whole], **quiet).then(**seeing)
    rows.click(told(notice, turn), chosen, [notice, rows, row], **quiet)
    adds = [upload, adding, notice, *whole]
    upload.upload(
        told(notice, look_at),
        upload,
        [notice, adding, look, mapping, name, *columns],
        api_visibility=PRIVATE,
        concurrency_limit=2,
    )
    upload.clear(told(notice, lambda: {adding: gr.update(visible=False)}), None, [notice, adding], **quiet)
    add.click(
        told(notice, keep), [upload, name, model, *columns], adds, api_visibility=PRIVATE, concurrency_limit=2
    ).then(**seeing)
    reopen: Step = {"fn": told(notice, show), "inputs": [chosen, model], "outputs": [notice, *whole], **quiet}
    return DataTab(chosen=chosen, train=train, reopen=reopen, see=seeing)


def _label(field: str) -> str:
    return field.capitalize() if field in ("instruction", "output") else f"{field.capitalize()} (optional)"


def _shelf(known: list[DatasetInfo], chosen: DatasetInfo | None) -> str:
    """The list of datasets as buttons; the chosen one is pressed."""
    items = "".join(
        f'<li><button type="button" class="item" data-pick data-id="{esc(info.id)}" '
        f'aria-pressed="{str(info == chosen).lower()}"><b>{esc(info.name)}</b>'
        f"<span>{info.rows:,} rows</span><span>{esc(info.format)}</span></button></li>"
        for info in known
    )
    return f'<ul class="shelf" aria-label="Datasets">{items}</ul>' if items else ""


def _head(info: DatasetInfo) -> str:
    """What a dataset is and why it was taken for that."""
    figures = markup.facts(
        [
            ("rows", f"{info.rows:,}"),
            ("held out", f"{info.held_out:,}"),
            ("format", esc(info.format)),
            ("size", esc(units.size(info.size))),
            ("added", markup.when(info.created)),
        ]
    )
    why = f"Format {info.format}: {info.why.rstrip('.')}."
    columns = " ".join(f"<code>{esc(name)}</code>" for name in info.columns)
    return (
        f'<div class="title" data-open-dataset="{esc(info.id)}"><h2>{esc(info.name)}</h2>{figures}'
        f'<p class="why">{esc(why)}</p><p class="why">Columns {columns} · from {esc(info.source)} · '
        f'<span title="sha256 {esc(info.sha256)}">sha256 {esc(info.sha256[:8])}</span></p></div>'
    )


def _rows(studio: Studio, info: DatasetInfo, offset: int) -> str:
    """One page of examples; a click on a number shows that one as tokens."""
    shown = datasets.rows(studio, info.id, offset, PAGE)
    cells = [
        [
            f'<button type="button" class="link" data-pick data-row="{item["row"]}" '
            f'aria-label="Show example {item["row"]} as tokens">{item["row"]}</button>',
            f'<div class="clip">{_flat(item["prompt"])}</div>',
            f'<div class="clip">{_flat(item["answer"])}</div>',
        ]
        for item in shown
    ]
    return markup.table(["", "Prompt", "Answer"], cells, f"Examples of {info.name}", "rows") + _pager(info.rows, offset)


def _flat(text: object) -> str:
    """A text in few lines: blank lines would hide what matters."""
    return esc(" ".join(str(text).split()))


def _pager(total: int, offset: int) -> str:
    if total <= PAGE:
        return ""
    last = min(total, offset + PAGE)
    return (
        f'<nav class="pager" aria-label="Pages of examples">'
        f'<button type="button" data-pick data-offset="{max(0, offset - PAGE)}" {"disabled" if offset == 0 else ""}>'
        f"Previous</button><span>{offset + 1:,} to {last:,} of {total:,}</span>"
        f'<button type="button" data-pick data-offset="{offset + PAGE}" {"disabled" if last >= total else ""}>'
        f"Next</button></nav>"
    )


def _look(found: FileLook) -> str:
    """What was found in a file: its format and why, or three values a column to say it by."""
    title = f"{found.rows:,} rows of {esc(found.format)}" if found.format else "Which column is which?"
    why = esc(found.why[:1].upper() + found.why[1:].rstrip("."))
    text = f'<div class="heading"><h3>{title}</h3><p>{why}.</p></div>{_rejects(found)}'
    heads = [str(name) for name in found.columns]
    cells = [
        [f'<div class="clip">{_flat(sample.get(name, ""))}</div>' for name in heads] for sample in found.samples[:3]
    ]
    return text + markup.table(heads, cells, "Three sample values of each column", "rows")


def _rejects(found: FileLook) -> str:
    """Rows that cannot be used, the first few with the reason."""
    if not found.rejected:
        return ""
    lines = "".join(f"<li>Row {row['row']}: {esc(row['reason'])}. {esc(row['fix'])}</li>" for row in found.rejected[:5])
    some = f"{len(found.rejected):,} rows cannot be used and would be left out:"
    return f'<div class="note note-warn"><p>{some}</p><ul class="advice">{lines}</ul></div>'


def _stem(path: str) -> str:
    return Path(path).stem


def name_of(studio: Studio, dataset: str) -> str:
    """The name that a recipe calls the dataset with this id by."""
    return datasets.get(studio, dataset).name
