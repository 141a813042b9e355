"""Adding a dataset: a file is uploaded, checked, read with other settings if necessary, and added or discarded.

A checked file is shown in the same steps as a dataset. This module handles only what a file needs before it is added:
its mapping, encoding and name.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets
from studio.services.data.checks import Checked, Options, OutOfTurn, Undecodable
from studio.ui.data import view as data_view
from studio.ui.data.adding_view import FIELDS, Bar, Drop, Reading, mapping_button, preview, samples
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, QUEUED, Step, Updates, with_notice, with_notice_while


@dataclass(frozen=True)
class Keys:
    """The tab's states.

    chosen: what is shown; pending: the check waiting to be added; waiting: the path of a file that cannot be read
    before its encoding is chosen or its turns are mended.
    """

    chosen: gr.State
    pending: gr.State
    waiting: gr.State


def wire(
    studio: Studio,
    drop: Drop,
    bar: Bar,
    reading: Reading,
    keys: Keys,
    show: Callable[[str], Updates],
    ask: Callable[[str, Undecodable | OutOfTurn, str], Updates],
    whole: Sequence[Any],
) -> None:
    """Wire the events of these components.

    show: the tab's updates for a key; ask: the updates for a file that cannot be read without a decision, with the
    pending check;
    whole: the components they update.
    """

    def take(request: gr.Request, path: str, held: str) -> Iterator[Updates]:
        return look_at(request, checks.take_in(studio, path), held)

    def fetch(request: gr.Request, hub_id: str, held: str) -> Iterator[Updates]:
        if "/" not in hub_id:
            raise BadInput("Enter the dataset's id as OWNER/NAME, for example tatsu-lab/alpaca.")
        return look_at(request, hub_id.strip(), held)

    def look_at(request: gr.Request, path: str, held: str) -> Iterator[Updates]:
        done = False
        yield {drop.upload: None, drop.notice: ""}
        try:
            checked = yield from drop.busy.follow(request, _reading(path), checks.checking(studio, path))
            done = True
        except (Undecodable, OutOfTurn) as error:
            done = True
            yield {drop.notice: "", **ask(path, error, held)}
            return
        finally:
            if not done:  # cancelled or not a dataset
                forget(studio, path)
        if previous := data_view.check_of(studio, held):
            _drop(studio, previous)
        yield {drop.notice: "", **show(checked.token)}

    def decode(request: gr.Request, path: str, encoding: str | None) -> Iterator[Updates]:
        if not path or not encoding:
            raise BadInput("Choose an encoding first.")
        yield {reading.notice: ""}
        job = checks.checking(studio, path, Options(encoding=encoding))
        checked = yield from reading.busy.follow(request, _reading(path), job)
        yield show(checked.token)

    def read(
        request: gr.Request,
        key: str,
        form: str | None,
        encoding: str,
        delimiter: str | None,
        first_row: str | None,
        held: str | None,
        *mapped: str | None,
    ) -> Iterator[Updates]:
        held_out_path = checks.take_in(studio, held) if held else ""  # first, to move it out of the uploads folder
        previous = checks.get(studio, key)
        held_out = held_out_path or previous.options.held_out
        mapping = _pairs(mapped)
        by_mapping = form == "mapped" or (
            not form and (previous.report.format is None or bool(previous.options.mapping))
        )
        if by_mapping and not mapping:
            raise BadInput(
                "Choose a column for the instruction and one for the output, or one for conversations or plain text."
            )
        options = replace(
            previous.options,
            format="" if by_mapping else form or "",
            mapping=mapping if by_mapping else {},
            encoding=encoding.strip(),
            delimiter=delimiter or "",
            header={"names": True, "example": False}.get(first_row or ""),
            held_out=held_out,
        )
        yield {reading.notice: "", reading.held_out: None}
        done = False
        try:
            job = checks.checking(studio, previous.path, options)
            checked = yield from reading.busy.follow(request, _reading(previous.path), job)
            done = True
        finally:
            if held and not done:
                forget(studio, held_out)
        checks.discard(studio, previous.token)
        yield show(checked.token)

    def open_mapping(key: str, form: str | None) -> Updates:
        """Show the mapping where it is chosen or required."""
        checked = checks.get(studio, key)
        required = form == "mapped" or (not form and checked.report.format in (None, "mapped"))
        return {reading.samples: samples(checked, required)}

    def look(key: str, *mapped: str | None) -> Updates:
        checked, mapping = checks.get(studio, key), _pairs(mapped)
        return {reading.preview: preview(checked, mapping), reading.read: mapping_button(checked, mapping)}

    def keep(key: str, name: str) -> Updates:
        checked = checks.get(studio, key)
        known_ids = {info.id for info in datasets.list_datasets(studio)}
        info = datasets.keep(studio, key, name.strip() or None)
        _forget_files(studio, checked)
        message = f"{info.name} was added."
        if info.id in known_ids:
            message = f"A dataset with the same examples already exists: {info.name}."
        return {**show(info.id), drop.notice: markup.note(message, "good")}

    def discard(key: str) -> Updates:
        checked = checks.get(studio, key)
        _drop(studio, checked)
        return {**show(""), drop.notice: markup.note(f"{Path(checked.path).name} was discarded.")}

    slow: Step = {"api_visibility": PRIVATE, "concurrency_limit": 2, "show_progress": "hidden"}
    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    drop.upload.upload(
        with_notice_while(studio, drop.notice, take, drop.busy.idle),
        [drop.upload, keys.pending],
        [drop.upload, drop.notice, drop.busy.said, *whole],
        **slow,
    )
    gr.on(
        [drop.fetch.click, drop.hub.submit],
        with_notice_while(studio, drop.notice, fetch, drop.busy.idle),
        [drop.hub, keys.pending],
        [drop.upload, drop.notice, drop.busy.said, *whole],
        **slow,
    )
    answers = [reading.busy.said, *whole]
    reading.decode.click(
        with_notice_while(studio, reading.notice, decode, reading.busy.idle),
        [keys.waiting, reading.encodings],
        answers,
        **slow,
    )
    reading_inputs = [
        keys.chosen,
        reading.format,
        reading.encoding,
        reading.delimiter,
        reading.header,
        reading.held_out,
        *reading.fields,
    ]
    gr.on(
        [reading.read.click, reading.again.click],
        with_notice_while(studio, reading.notice, read, reading.busy.idle),
        reading_inputs,
        answers,
        **slow,
    )
    gr.on(
        [reading.format.input, reading.fold.expand],
        with_notice(studio, reading.notice, open_mapping),
        [keys.chosen, reading.format],
        [reading.notice, reading.samples],
        **quiet,
    )
    gr.on(
        [box.input for box in reading.fields],
        with_notice(studio, reading.notice, look),
        [keys.chosen, *reading.fields],
        [reading.notice, reading.preview, reading.read],
        trigger_mode="always_last",
        **QUEUED,
    )
    bar.add.click(with_notice(studio, drop.notice, keep), [keys.chosen, bar.name], [drop.notice, *whole], **QUEUED)
    bar.discard.click(with_notice(studio, drop.notice, discard), keys.chosen, [drop.notice, *whole], **QUEUED)


def _reading(path: str) -> str:
    return f"Reading {Path(path).name}"


def _drop(studio: Studio, checked: Checked) -> None:
    """Forget a check and its uploaded files."""
    checks.discard(studio, checked.token)
    _forget_files(studio, checked)


def _forget_files(studio: Studio, checked: Checked) -> None:
    for path in (checked.path, checked.options.held_out):
        if path:
            forget(studio, path)


def forget(studio: Studio, path: str) -> None:
    """Delete an uploaded file that was moved to staging, and its folder."""
    folder = Path(path).parent
    if folder.parent == studio.settings.staging:
        shutil.rmtree(folder, ignore_errors=True)


def _pairs(mapped: Sequence[str | None]) -> dict[str, str]:
    return {field: column for field, column in zip(FIELDS, mapped, strict=True) if column}
