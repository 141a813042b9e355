"""The components for adding a dataset: the file upload, the bar above a file that is not added yet, and its reading
settings. Their events are wired in adding.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.services.data import checks, datasets
from studio.services.data.checks import Checked, Undecodable
from studio.ui.data import view as data_view
from studio.ui.parts import busy
from studio.ui.parts.busy import Busy
from studio.ui.parts.handlers import Updates, view
from studio.ui.parts.templates import macro

TYPES = [".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".md", ".gz"]
_LABELS = {
    "instruction": "Instruction or question",
    "input": "Input (optional)",
    "output": "Output (the answer to learn)",
    "system": "System prompt (optional)",
    "tools": "Tools (optional)",
    "history": "Earlier turns (optional)",
    "messages": "Or conversations",
    "text": "Or plain text only",
}
FIELDS = tuple(_LABELS)
_CONFIRM, _MAP = "Yes, use it", "Use this mapping"
_FOUND_OUT = ("automatic", "")
_DELIMITERS = [_FOUND_OUT, ("comma  ,", ","), ("semicolon  ;", ";"), ("tab", "\t"), ("pipe  |", "|")]
_HEADERS = [_FOUND_OUT, ("names the columns", "names"), ("is an example", "example")]
_SHOWN_CHOICES = 40
_SHOWN_TEXT = 300


@dataclass(frozen=True)
class Drop:
    """The file upload, and the messages shown while a file is checked."""

    upload: gr.File
    hub: gr.Textbox
    fetch: gr.Button
    notice: gr.HTML
    busy: Busy


@dataclass(frozen=True)
class Bar:
    """The bar above a file that is not added yet."""

    words: gr.HTML
    name: gr.Textbox
    add: gr.Button
    discard: gr.Button

    @property
    def parts(self) -> list[Any]:
        return [self.words, self.name]


@dataclass(frozen=True)
class Reading:
    """How a file is read: its encoding, its column mapping and other settings."""

    encodings: gr.Radio
    decode: gr.Button
    samples: gr.HTML
    fields: list[gr.Dropdown]
    preview: gr.HTML
    read: gr.Button
    fold: gr.Accordion
    format: gr.Dropdown
    encoding: gr.Textbox
    delimiter: gr.Dropdown
    header: gr.Dropdown
    held_out: gr.File
    again: gr.Button
    notice: gr.HTML
    busy: Busy

    @property
    def parts(self) -> list[Any]:
        return [self.encodings, self.samples, *self.fields, self.preview, self.read,
                self.fold, self.format, self.encoding, self.delimiter, self.header, self.held_out,
                self.notice]  # fmt: skip


def build_drop(online: bool) -> Drop:
    """Build the upload. online: whether datasets can be fetched from the Hugging Face hub."""
    upload = gr.File(
        label="Add a file",
        file_types=TYPES,
        type="filepath",
        height=128,
        elem_id="dataset-file",
    )
    view("drop-hint", macro("data/adding.html", "drop_hint"))
    with gr.Row(visible=online, elem_id="hub-row"):
        hub = gr.Textbox(
            label="Or a dataset on the Hugging Face hub",
            placeholder="owner/name",
            elem_id="hub-id",
            scale=4,
            min_width=140,
            max_length=200,
        )
        fetch = gr.Button("Fetch", elem_id="fetch-hub", size="md", scale=0, min_width=80)
    notice = view("data-notice")
    return Drop(upload, hub, fetch, notice, busy.build("check"))


def build_bar() -> Bar:
    with gr.Column(elem_id="pending"):
        words = view("pending-words")
        with gr.Row(elem_id="pending-row"):
            name = gr.Textbox(label="Name", elem_id="dataset-name", max_length=80, scale=4, min_width=160)
            add = gr.Button("Add dataset", variant="primary", elem_id="add-dataset", scale=0, min_width=120)
            discard = gr.Button("Discard", elem_id="discard-check", scale=0, min_width=90)
    return Bar(words, name, add, discard)


def build_reading() -> Reading:
    with gr.Column(elem_id="decoding"):
        encodings = gr.Radio([], label="Which of these is readable?", elem_id="encodings")
        decode = gr.Button("Use this encoding", variant="primary", elem_id="read-encoding", size="md")
    with gr.Column(elem_id="adding"):
        with gr.Column(elem_id="mapping"):
            samples = view("file-look")
            with gr.Row(elem_classes="fields three"):
                fields = [
                    gr.Dropdown(
                        [],
                        label=_LABELS[name],
                        min_width=150,
                        elem_id=f"map-{name}",
                        allow_custom_value=True,
                    )
                    for name in FIELDS
                ]
            preview = view("map-preview")
            read = gr.Button(_MAP, variant="primary", elem_id="read-mapped", size="md")
        with gr.Accordion("Read with other settings", open=False, elem_classes="fold", elem_id="another-way") as fold:
            with gr.Row(elem_classes="fields three"):
                format_ = gr.Dropdown([], label="Format", elem_id="file-format", filterable=False)
                encoding = gr.Textbox(label="Encoding", elem_id="file-encoding", placeholder="automatic")
                delimiter = gr.Dropdown(
                    _DELIMITERS, label="Column separator", elem_id="file-delimiter", filterable=False
                )
                header = gr.Dropdown(_HEADERS, label="First row of a table", elem_id="file-header", filterable=False)
            held_out = gr.File(
                label="Held-out file (optional): for evaluation, never trained on",
                file_types=TYPES,
                type="filepath",
                height=104,
                elem_id="held-out-file",
            )
            again = gr.Button("Read again", elem_id="read-again", size="md")
    notice = view("reading-notice")
    return Reading(
        encodings=encodings,
        decode=decode,
        samples=samples,
        fields=fields,
        preview=preview,
        read=read,
        fold=fold,
        format=format_,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        held_out=held_out,
        again=again,
        notice=notice,
        busy=busy.build("reading"),
    )


def shown(bar: Bar, reading: Reading, checked: Checked) -> Updates:
    """The updates that show a checked file, ready to be added or read again."""
    report, options = checked.report, checked.options
    unmapped = report.format is None
    updates: Updates = {
        bar.words: macro("data/adding.html", "pending", report),
        bar.name: datasets.name_for(checked.path),
        reading.samples: samples(checked, unmapped and report.suggested is None),
        reading.read: mapping_button(checked, report.mapping),
        reading.fold: gr.update(open=False),
        reading.format: gr.update(
            choices=[_FOUND_OUT, *((name, name) for name in checks.FORMATS)], value=_asked(checked)
        ),
        reading.encoding: options.encoding,
        reading.delimiter: options.delimiter,
        reading.header: {None: "", True: "names", False: "example"}[options.header],
        reading.held_out: None,
        reading.notice: "",
    }
    for field, box in zip(FIELDS, reading.fields, strict=True):
        names = report.columns if field in ("messages", "tools", "history") else report.choices
        choices = [("none", ""), *((name, name) for name in names)]
        updates[box] = gr.update(choices=choices, value=report.mapping.get(field, ""))
    return updates | {reading.preview: preview(checked, report.mapping)}


def undecodable(reading: Reading, error: Undecodable) -> Updates:
    """The choice of encodings, each with a preview of the text."""
    choices = [(f"{item.encoding}   {' '.join(item.preview.split())[:160]}", item.encoding) for item in error.proposals]
    first = choices[0][1] if choices else None
    return {
        reading.encodings: gr.update(choices=choices, value=first),
        reading.notice: "",
    }


def _asked(checked: Checked) -> str:
    """The format that was chosen, not the detected one."""
    return "mapped" if checked.options.mapping else checked.options.format


def samples(checked: Checked, shown: bool) -> str:
    """The columns that a mapping may use, each with its values in the first rows."""
    if not shown:
        return ""
    report = checked.report
    more = len(report.choices) - _SHOWN_CHOICES
    question = report.why if data_view.is_plain_guess(report) else ""
    return macro("data/adding.html", "samples", report.choices[:_SHOWN_CHOICES], report.samples, more, question)


def mapping_button(checked: Checked, mapping: Mapping[str, str]) -> str:
    """The label of the button that uses a mapping: a confirmation while it is the one that was guessed."""
    guessed = data_view.is_plain_guess(checked.report) and dict(mapping) == checked.report.mapping
    return _CONFIRM if guessed else _MAP


def preview(checked: Checked, mapping: Mapping[str, str]) -> str:
    """The first row as the mapping would convert it, or what the mapping is missing."""
    try:
        messages = next(iter(checks.preview(checked, mapping)), [])
    except BadInput as error:
        return macro("data/adding.html", "lacking", error) if mapping else ""
    return macro("data/adding.html", "preview", messages, _SHOWN_TEXT) if messages else ""
