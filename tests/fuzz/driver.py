"""Reads one file as a person's would be, and judges what comes of it."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from studio.dataset.checking import Order, check
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import Proposal, ReadOptions, Undecodable, open_rows
from studio.dataset.read.rows import FAULTS, Finding
from studio.dataset.store import iter_findings, iter_records
from studio.errors import BadInput


@dataclass
class Outcome:
    """What came of a file: rows and findings, or the sentence that refuses it."""

    rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    refused: str = ""
    proposals: list[Proposal] = field(default_factory=list)


def drive(path: Path, limits: Limits | None = None, how: ReadOptions | None = None) -> Outcome:
    """Read the file to its end. Anything but BadInput comes through: it is a fault of ours."""
    seen = Outcome()
    try:
        with open_rows(path, limits or Limits(), how or ReadOptions()) as source:
            for row in source.rows:
                if isinstance(row, Finding):
                    seen.findings.append(row)
                else:
                    seen.rows += 1
            assert source.note and source.kind
            done, size = source.done()
            assert 0 <= done <= size
    except BadInput as refused:
        seen.refused = str(refused)
        seen.proposals = refused.proposals if isinstance(refused, Undecodable) else []
    return seen


def examine(path: Path, folder: Path, limits: Limits | None = None, how: ReadOptions | None = None) -> Outcome:
    """Check the file whole, as the page and the command line do: records, repeats, findings, a dataset folder."""
    seen = Outcome()
    folder.mkdir(exist_ok=True)
    try:
        report = check(Order(path, how=how or ReadOptions()), limits or Limits(), folder)
    except BadInput as refused:
        seen.refused = str(refused)
        assert list(folder.iterdir()) == [], "a refused file left something behind"
        return seen
    assert report.why and report.note
    if report.id:
        seen.findings = list(iter_findings(folder / report.id))
        seen.rows = sum(len(chunk) for chunk in iter_records(folder / report.id))
        left_out = sum(FAULTS[item.kind].left_out for item in seen.findings)
        assert (report.ok, report.rows) == (seen.rows, seen.rows + left_out), "rows went missing uncounted"
    shutil.rmtree(folder)
    return seen


def judge(path: Path, seen: Outcome) -> None:
    """Whether a person can make sense of the outcome."""
    if seen.refused:
        assert path.name in seen.refused or str(path) in seen.refused, seen.refused
        assert seen.refused.endswith("."), seen.refused
        assert len(seen.refused) < 2000, seen.refused[:200]
        seen.refused.encode()
    for proposal in seen.proposals:
        assert proposal.encoding and len(proposal.preview) <= 200
    for found in seen.findings:
        assert found.row >= 1 and found.reason and found.fix, found
        assert found.kind in FAULTS and found.raw.encode() is not None
        f"{found.field}{found.reason}".encode()


@contextmanager
def watchdog(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what runs longer than that: a hang."""

    def bark(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"still reading after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
