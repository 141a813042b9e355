"""Check a file: read it, convert its rows to records, and collect a finding for every problem.

The result is a folder ready to become a dataset (store.py) and a Report. Memory is bounded for files of any size: rows
are streamed, and only a hash and a signature of each are kept.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from studio.dataset import columns as column_names
from studio.dataset.read.accounting import Use
from studio.dataset.read.detection import Detection, detect
from studio.dataset.read.formats import FORMATS, Format, Layout, LayoutOptions, as_json
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import ReadOptions, Source, open_rows
from studio.dataset.read.rows import Finding, Kind, Row
from studio.dataset.read.strict import clip, named
from studio.dataset.record import Record
from studio.dataset.store import Writer
from studio.errors import BadInput

# Number of rows examined to detect the format and the columns.
_PEEK = 100
_SAMPLES = 3
# Marks that open a turn in the chat templates of widespread models.
_MARKUP = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|<\|user\|>|### (?:Human|User):")
Progress = Callable[[str, int, int], None]


class OutOfTurn(BadInput):
    """No row is usable, the first because of its turn order: joining turns or leaving some out may help."""


@dataclass(frozen=True, slots=True)
class Order:
    """A file to check and how to read it; with "" and {} the format and mapping are detected.

    shards: further files that continue `file`, with continuous row numbers. layout: what the person decided about
    columns to ignore and turns out of order.
    """

    file: Path
    held_out: Path | None = None
    format: str = ""
    mapping: dict[str, str] = field(default_factory=dict)
    how: ReadOptions = field(default_factory=ReadOptions)
    shards: tuple[Path, ...] = ()
    layout: LayoutOptions = field(default_factory=LayoutOptions)


@dataclass(frozen=True, slots=True)
class Report:
    """Result of checking a file. format is None when a mapping is needed; nothing further was read then.

    id: sha256 of the content, the name of the new folder. choices: names that a mapping may use; samples: their values
    in the first rows. mapping: the one used, or a first guess. rows: rows read, including rejected ones; ok: rows kept;
    counts: findings by kind. seconds: wall time. suggested: the format to confirm, for preference data. column_uses
    and key_uses: what became of the columns of all rows, and of the keys of their messages.
    """

    kind: str
    note: str
    columns: list[str]
    choices: list[str]
    samples: list[dict[str, str]]
    format: Format | None
    why: str
    mapping: dict[str, str]
    sha256: str
    id: str = ""
    rows: int = 0
    ok: int = 0
    held_out: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    suggested: Format | None = None
    column_uses: list[Use] = field(default_factory=list)
    key_uses: list[Use] = field(default_factory=list)


def check(order: Order, limits: Limits, folder: Path, progress: Progress = lambda *_: None) -> Report:
    """Check a file and write its records to the folder `folder`/<id>. progress(what, done, of) counts bytes.

    Raises BadInput, without having written anything, when the file is not a dataset or has no usable row.
    """
    started = time.monotonic()
    with open_rows(order.file, limits, order.how, folder) as source:
        if not source.header:  # nor have its further files and the held-out one
            order = replace(order, how=replace(order.how, header=False))
        rows = _watched(source, f"Reading {order.file.name}", progress)
        if order.shards:
            rows = _numbered_on(chain(rows, _further(order, limits, progress)))
        first = list(islice(rows, _PEEK))
        report = replace(_look(order, source, first), sha256=_sha256(*source.files, *order.shards))
        if report.format is None:
            return replace(report, seconds=time.monotonic() - started)
        layout = Layout(report.format, report.mapping, report.columns, order.layout, source.media)
        aside = folder / ".making"
        aside.mkdir()
        try:
            with Writer(aside) as writer:
                patient = _Patient(writer)
                patient.take(chain(first, rows), layout, held_out=False)
                if writer.rows == writer.held_out:
                    raise _unusable(order.file, patient.refused)
                if order.held_out is not None:
                    _take_second(order, limits, report, patient, progress)
                digest = writer.close(patient.groups())
            aside.rename(folder / digest)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return replace(
        report,
        id=digest,
        note=source.note + patient.unfinished(),
        rows=patient.read,
        ok=writer.rows,
        held_out=writer.held_out,
        counts=writer.counts,
        column_uses=layout.columns.uses(),
        key_uses=layout.keys.uses(),
        seconds=time.monotonic() - started,
    )


def revise(
    base: Path, drop: set[int], edits: dict[int, Record], folder: Path, progress: Progress
) -> tuple[str, Writer]:
    """Write a new version of the dataset folder `base` to `folder`/<id>.

    drop: positions (from 1) of examples to leave out; edits: replacements by position. Findings about the file are
    copied; those about repeated rows are computed again.
    """
    from studio.dataset.store import iter_findings, iter_records, iter_unwanted

    aside = folder / ".making"
    aside.mkdir()
    try:
        with Writer(aside) as writer:
            patient = _Patient(writer)
            for finding in iter_findings(base):
                if finding.kind not in ("leak", "duplicate", "near_duplicate"):
                    writer.note(finding)
            place = 0
            for chunk in iter_records(base):
                for record in chunk:
                    place += 1
                    if place in drop:
                        writer.note(_excluded(record))
                    else:
                        patient.keep(edits.get(place, record))
                progress("Writing the new version", place, 0)
            for record in iter_unwanted(base):
                writer.put_unwanted(record)
            if writer.rows == 0:
                raise BadInput("Nothing would be left: keep at least one example.")
            digest = writer.close(patient.groups())
        if not (folder / digest).exists():
            aside.rename(folder / digest)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return digest, writer


def _excluded(record: Record) -> Finding:
    stored = {"messages": record.messages} | ({"tools": record.tools} if record.tools else {})
    raw = as_json({"text": record.text} if record.text else stored)
    reason, fix = "you left it out of this version", "nothing to do"
    return Finding(record.row, "excluded", "", reason, fix, raw=raw, held_out=record.held_out)


class _Patient:
    """Write the rows that can become records and note a finding for everything that is wrong."""

    def __init__(self, writer: Writer) -> None:
        # Imported here: datasketch imports scipy, and a file that is not a dataset needs neither.
        from studio.dataset.repeats import Repeats

        self._writer = writer
        self._repeats = Repeats()
        self._rows: list[tuple[int, bool]] = []
        self.read = self.kept = 0
        self.refused: Finding | None = None
        self.has_split = False

    def take(self, rows: Iterable[Row | Finding], layout: Layout, held_out: bool) -> None:
        for row in rows:
            self.read += 1
            apart = held_out or row.held_out
            self.has_split = self.has_split or row.held_out
            result = row if isinstance(row, Finding) else layout.record(row)
            if isinstance(result, Finding):
                self.refused = self.refused or result
                self._writer.note(replace(result, held_out=apart))
                continue
            assert isinstance(row, Row)
            if result.messages and result.messages[-1]["role"] != "assistant":
                self._writer.put_unwanted(result)
                self._writer.note(_unwanted(row, apart))
                continue
            self.keep(replace(result, held_out=True) if apart else result)
            for finding in (layout.unused(row), layout.mended(row), _markup(result)):
                if finding:
                    self._writer.note(replace(finding, held_out=apart))

    def keep(self, record: Record) -> None:
        self.kept += 1
        self._writer.put(record)
        self._rows.append((record.row, record.held_out))
        repeated = self._repeats.add(record)
        if repeated is not None:
            self._writer.note(self._repeat(record, *repeated))

    def _repeat(self, record: Record, place: int, exactly: bool) -> Finding:
        row, held_out = self._rows[place]
        word = "is the same as" if exactly else "is nearly the same as"
        if record.held_out and not held_out:
            reason = f"{word} row {row} of the training file, so it measures memorisation, not learning"
            return Finding(record.row, "leak", "", reason, "remove one of the two", of=row, held_out=True)
        fix = "remove it unless it should count twice"
        kind: Kind = "duplicate" if exactly else "near_duplicate"
        return Finding(record.row, kind, "", f"{word} row {row}", fix, of=row, held_out=record.held_out)

    def unfinished(self) -> str:
        """Addition to the note that says which rows were not searched for near duplicates; empty when all were."""
        most = self._repeats.most_near
        return f"; only the first {most:,} rows were searched for near duplicates" if self.kept > most else ""

    def groups(self) -> list[int]:
        return [place + 1 for place in self._repeats.groups()]


def _markup(record: Record) -> Finding | None:
    """Finding for plain text that is a conversation in the markup of some model, or None."""
    found = _MARKUP.search(record.text) if record.text else None
    if found is None:
        return None
    reason = f"contains chat markup ({found[0]}) as plain text: questions are trained like answers"
    return Finding(record.row, "markup", "text", reason, "save it as messages, or keep it if you want that")


def _unwanted(row: Row, held_out: bool) -> Finding:
    reason, fix = "its answer is labelled as bad: it is kept, but not trained", "nothing to do"
    return Finding(row.number, "unwanted", "", reason, fix, raw=as_json(row.values), held_out=held_out)


def _take_second(order: Order, limits: Limits, report: Report, patient: _Patient, progress: Progress) -> None:
    """Read the file of held-out examples, in the same format as the training file."""
    path = order.held_out
    assert path is not None and report.format is not None
    before = patient.kept
    if patient.has_split:
        raise _splits(order.file)
    with open_rows(path, limits, order.how, None) as source:
        rows = _watched(source, f"Reading {path.name}", progress)
        first = list(islice(rows, _PEEK))
        layout = Layout(report.format, report.mapping, _columns(source, first), order.layout, source.media)
        patient.refused = None
        patient.take(chain(first, rows), layout, held_out=True)
    if patient.has_split:
        raise _splits(path)
    if patient.kept == before:
        raise _unusable(path, patient.refused)


def _look(order: Order, source: Source, first: list[Row | Finding]) -> Report:
    """Start a Report from the first rows: format, columns, choices and samples."""
    rows = [row.values for row in first if isinstance(row, Row)]
    columns = _columns(source, first)
    if not rows:
        raise _unusable(order.file, next((row for row in first if isinstance(row, Finding)), None))
    for name in columns:
        if name != clip(name):
            raise BadInput(
                f"{order.file.name}: the column {named(name)!r} has half a character in its name. Rename it."
            )
    choices = column_names.choices(columns, rows)
    named_here = dict.fromkeys([*choices, *columns])  # a whole list of messages may be mapped, too
    shown = [{name: column_names.sample(name, row, columns) for name in named_here} for row in rows[:_SAMPLES]]
    found = _format(order, columns, choices, rows)
    why = f"{source.question}; {found.why}" if source.question and found.format is None else found.why
    return Report(
        source.kind, source.note, columns, choices, shown, found.format, why, found.mapping, sha256="",
        suggested=found.suggested,
    )  # fmt: skip


def _format(order: Order, columns: list[str], choices: list[str], rows: list[dict[str, Any]]) -> Detection:
    """The format and mapping that were requested, else those detected from the columns."""
    if order.mapping:
        return Detection("mapped", "you mapped its columns", dict(order.mapping))
    if order.format:
        form = next((known for known in FORMATS if known == order.format), None)
        if form is None:
            raise BadInput(f"There is no format {order.format!r}. It is one of: {', '.join(FORMATS)}.")
        return Detection(form, "you chose it", column_names.guess(choices) if form == "mapped" else {})
    ignored = set(order.layout.ignore)
    return detect([name for name in columns if name not in ignored], rows, [n for n in choices if n not in ignored])


def _columns(source: Source, first: list[Row | Finding]) -> list[str]:
    if source.columns:
        return list(source.columns)
    return list(dict.fromkeys(name for row in first if isinstance(row, Row) for name in row.values))


def _splits(path: Path) -> BadInput:
    return BadInput(
        f"{path.name} has held-out rows of its own, so there can be no second file of them. Leave out the second file, "
        "or save each split as a file."
    )


def _unusable(path: Path, refused: Finding | None) -> BadInput:
    if refused is None:
        return BadInput(f"{path.name} has no rows. It needs at least one example.")
    at = f", field {refused.field}" if refused.field else ""
    error = OutOfTurn if refused.kind == "turns" else BadInput
    return error(f"{path.name} has no usable row. Row {refused.row}{at}: {refused.reason}; {refused.fix}.")


def _watched(source: Source, what: str, progress: Progress) -> Iterator[Row | Finding]:
    """Yield the rows of a source and report progress every 0.2 seconds."""
    reported = 0.0
    for row in source.rows:
        if time.monotonic() - reported > 0.2:
            reported = time.monotonic()
            progress(what, *source.done())
        yield row


def _further(order: Order, limits: Limits, progress: Progress) -> Iterator[Row | Finding]:
    """Yield the rows of the further files, each file numbered from 1."""
    for shard in order.shards:
        with open_rows(shard, limits, order.how) as source:
            yield from _watched(source, f"Reading {shard.name}", progress)


def _numbered_on(rows: Iterable[Row | Finding]) -> Iterator[Row | Finding]:
    """Renumber the rows of several files as if they were one file."""
    numbers = {False: 0, True: 0}
    for row in rows:
        numbers[row.held_out] += 1
        number = numbers[row.held_out]
        yield replace(row, number=number) if isinstance(row, Row) else replace(row, row=number)


def _sha256(*paths: Path) -> str:
    """sha256 of one file; for several, the sha256 of their concatenated hex digests."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
