"""Adding a dataset: a file is dropped, checked, read another way if need be, and added or discarded.

A checked file is looked at in the same steps as a dataset; what is here is what only a file needs that is not added
yet: its mapping, its encoding, its name.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets
from studio.services.data.checks import Checked, Options, Undecodable
from studio.ui.data import view as data_view
from studio.ui.data.adding_view import FIELDS, Bar, Drop, Reading, preview, samples
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, QUEUED, Step, Updates, with_notice, with_notice_while


@dataclass(frozen=True)
class Keys:
    """chosen: what is shown; pending: the check that waits to be added; waiting: the path of a file whose encoding
    is to be chosen.
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
    ask: Callable[[str, Undecodable, str], Updates],
    whole: Sequence[Any],
) -> None:
    """What happens in these parts. show: the tab's updates for a key; ask: those for a file that cannot be decoded,
    with the check that waits; whole: the parts they update.
    """

    def take(request: gr.Request, path: str, held: str) -> Iterator[Updates]:
        return look_at(request, checks.take_in(studio, path), held)

    def fetch(request: gr.Request, hub_id: str, held: str) -> Iterator[Updates]:
        if "/" not in hub_id:
            raise BadInput("Write the dataset's id as the hub has it, for example tatsu-lab/alpaca.")
        return look_at(request, hub_id.strip(), held)

    def look_at(request: gr.Request, kept: str, held: str) -> Iterator[Updates]:
        done = False
        yield {drop.upload: None, drop.notice: ""}
        try:
            checked = yield from drop.busy.follow(request, _reading(kept), checks.checking(studio, kept))
            done = True
        except Undecodable as error:
            done = True
            yield {drop.notice: "", **ask(kept, error, held)}
            return
        finally:
            if not done:  # cancelled, or no dataset
                forget(studio, kept)
        if before := data_view.check_of(studio, held):
            _drop(studio, before)
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
        held: str | None,
        *mapped: str | None,
    ) -> Iterator[Updates]:
        taken = checks.take_in(studio, held) if held else ""  # first of all: it leaves the folder of uploads
        before = checks.get(studio, key)
        second = taken or before.options.held_out
        mapping = _pairs(mapped)
        by_mapping = form == "mapped" or (not form and (before.report.format is None or bool(before.options.mapping)))
        if by_mapping and not mapping:
            raise BadInput("Say at least which column is the instruction and which the output, or which is plain text.")
        options = Options(
            format="" if by_mapping else form or "",
            mapping=mapping if by_mapping else {},
            encoding=encoding.strip(),
            delimiter=delimiter or "",
            held_out=second,
        )
        yield {reading.notice: "", reading.held_out: None}
        done = False
        try:
            job = checks.checking(studio, before.path, options)
            checked = yield from reading.busy.follow(request, _reading(before.path), job)
            done = True
        finally:
            if held and not done:
                forget(studio, second)
        checks.discard(studio, before.token)
        yield show(checked.token)

    def open_mapping(key: str, form: str | None) -> Updates:
        """A mapping is shown where it is asked for, or needed."""
        checked = checks.get(studio, key)
        needs = form == "mapped" or (not form and checked.report.format in (None, "mapped"))
        return {reading.samples: samples(checked, needs)}

    def look(key: str, *mapped: str | None) -> Updates:
        return {reading.preview: preview(checks.get(studio, key), _pairs(mapped))}

    def keep(key: str, name: str) -> Updates:
        checked = checks.get(studio, key)
        here = {info.id for info in datasets.list_datasets(studio)}
        info = datasets.keep(studio, key, name.strip() or None)
        _forget_files(studio, checked)
        said = f"{info.name} is added."
        if info.id in here:
            said = f"The same examples are here already, as {info.name}."
        return {**show(info.id), drop.notice: markup.note(said, "good")}

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
    told_so = [keys.chosen, reading.format, reading.encoding, reading.delimiter, reading.held_out, *reading.fields]
    gr.on(
        [reading.read.click, reading.again.click],
        with_notice_while(studio, reading.notice, read, reading.busy.idle),
        told_so,
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
        [reading.notice, reading.preview],
        trigger_mode="always_last",
        **QUEUED,
    )
    bar.add.click(with_notice(studio, drop.notice, keep), [keys.chosen, bar.name], [drop.notice, *whole], **QUEUED)
    bar.discard.click(with_notice(studio, drop.notice, discard), keys.chosen, [drop.notice, *whole], **QUEUED)


def _reading(path: str) -> str:
    return f"Reading {Path(path).name}"


def _drop(studio: Studio, checked: Checked) -> None:
    """Forget a check and the files it was made from."""
    checks.discard(studio, checked.token)
    _forget_files(studio, checked)


def _forget_files(studio: Studio, checked: Checked) -> None:
    for path in (checked.path, checked.options.held_out):
        if path:
            forget(studio, path)


def forget(studio: Studio, path: str) -> None:
    """Remove an uploaded file that was taken in, with the folder made for it."""
    folder = Path(path).parent
    if folder.parent == studio.settings.staging:
        shutil.rmtree(folder, ignore_errors=True)


def _pairs(mapped: Sequence[str | None]) -> dict[str, str]:
    return {field: column for field, column in zip(FIELDS, mapped, strict=True) if column}
