"""Step three of the Data tab: problems by kind, page by page, and a new version of the dataset without them.

Findings come from the file alone until the lengths are counted (steps.py), then from both.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.data import datasets, examples
from studio.services.data.datasets import DatasetInfo
from studio.services.data.examples import LengthView
from studio.ui.data import findings_view
from studio.ui.data import view as data_view
from studio.ui.parts import busy, editor, markup
from studio.ui.parts.busy import Busy
from studio.ui.parts.handlers import PRIVATE, QUEUED, Step, Updates, view, with_notice, with_notice_while

_OF_LENGTH = ("untrained", "answer_cut", "cut")
ALL = ("", 0)


@dataclass(frozen=True)
class Findings:
    """The components. looked: the kind of the findings shown ("" for all) and their offset."""

    looked: gr.State
    verdict: gr.HTML
    mending: gr.HTML
    leave: gr.Button
    leaving: Busy
    notice: gr.HTML
    found: gr.HTML

    @property
    def parts(self) -> list[Any]:
        return [self.looked, self.verdict, self.mending, self.found, self.leave, self.notice]


def build() -> Findings:
    view("", markup.step(3, "What is wrong", "Rows that were left out, and rows to check."))
    verdict, mending = view("verdict", picks=True), view("mending", picks=True)
    leave = gr.Button("Leave these out", elem_id="leave-out", size="md")
    leaving, notice = busy.build("leave"), view("findings-notice")
    return Findings(gr.State(ALL), verdict, mending, leave, leaving, notice, view("findings", picks=True))


def shown(studio: Studio, wrong: Findings, key: str) -> Updates:
    """All findings of a dataset or checked file, from the first page."""
    mending = data_view.mending(data_view.check_of(studio, key))
    return {
        wrong.looked: ALL,
        **_drawn(studio, wrong, key, ALL, None, "", {}),
        wrong.mending: mending,
        wrong.notice: "",
    }


def wire(
    studio: Studio,
    wrong: Findings,
    asked: Sequence[Any],
    measured: gr.State,
    row: gr.Number,
    held: gr.State,
    show: Callable[[str, str], Updates],
    whole: Sequence[Any],
) -> None:
    """Wire the events of this step.

    asked: what is shown, the model, the lengths counted last and the formatting; measured: those lengths; row: the
    example shown as tokens; held, show, whole: as in steps.py.
    """

    def turn(event: gr.EventData, looked: tuple[str, int]) -> Updates:
        """Another page or kind of findings, which `judge` then draws, or one row as tokens."""
        if hasattr(event, "row"):
            return {row: int(event.row)}
        kind = event.kind if hasattr(event, "kind") else looked[0]
        return {wrong.looked: (kind, int(event.offset) if hasattr(event, "offset") else 0)}

    def judge(looked: tuple[str, int], key: str, picked: str | None, result: LengthView | None, *how: Any) -> Updates:
        """The findings of the selected kind, including those from counted lengths."""
        if not key:
            return {wrong.found: gr.skip()}
        return _drawn(studio, wrong, key, looked, result, picked, data_view.shaping(*how))

    def leave_out(
        request: gr.Request,
        pending: str,
        looked: tuple[str, int],
        key: str,
        picked: str | None,
        result: LengthView | None,
        *how: Any,
    ) -> Iterator[Updates]:
        kind = looked[0]

        def job() -> Generator[Progress, None, DatasetInfo]:
            places: list[int] = []
            if kind in _OF_LENGTH and result is not None:
                lengths = (str(picked), data_view.shaping(*how))
                count = result.counts_by_kind[kind]
                page = examples.findings(studio, key, findings_view.kinds(kind), 0, count, lengths=lengths)
                places = [item.example for item in page.items]
            return (yield from datasets.excluding(studio, key, kinds=findings_view.kinds(kind), examples=places))

        yield {wrong.notice: ""}
        version = yield from wrong.leaving.follow(request, editor.REVISING, job())
        yield {**show(version.id, pending), wrong.notice: editor.saved(version.name, version.changes)}

    slow: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 4}
    gr.on(
        [wrong.verdict.click, wrong.found.click],
        with_notice(studio, wrong.notice, turn),
        wrong.looked,
        [wrong.notice, row, wrong.looked],
        **QUEUED,
    )
    # A single handler draws them, so that an older answer cannot overwrite that of a kind chosen since.
    gr.on(
        [wrong.looked.change, measured.change],
        with_notice(studio, wrong.notice, judge, clear=False),
        [wrong.looked, *asked],
        [wrong.notice, wrong.verdict, wrong.found, wrong.leave],
        trigger_mode="always_last",
        **QUEUED,
    )
    wrong.leave.click(
        with_notice_while(studio, wrong.notice, leave_out, wrong.leaving.idle),
        [held, wrong.looked, *asked],
        [wrong.leaving.said, *whole],
        **slow,
    )


def _drawn(
    studio: Studio,
    wrong: Findings,
    key: str,
    looked: tuple[str, int],
    result: LengthView | None,
    picked: str | None,
    values: Mapping[str, Any],
) -> Updates:
    kind, offset = looked
    checked = data_view.check_of(studio, key)
    counts = result.counts_by_kind if result else _counts(studio, key)
    kind = kind if counts.get(kind) else ""
    lengths = (str(picked), values) if result and picked else None
    page = examples.findings(studio, key, findings_view.kinds(kind), offset, findings_view.PAGE, lengths=lengths)
    if result:
        mark, text = result.verdict.mark, result.verdict.text
    elif checked:
        verdict = datasets.verdict_of(checked)
        mark, text = verdict.mark, verdict.text
    else:
        info = datasets.get(studio, key)
        mark, text = info.mark, info.verdict
    leave = _leave(checked is None, kind, counts)
    return {
        wrong.verdict: findings_view.summary(key, mark, text, counts, kind, leaves=bool(leave)),
        wrong.found: findings_view.table(page, offset),
        wrong.leave: leave or gr.skip(),
    }


def _leave(added: bool, kind: str, counts: Mapping[str, int]) -> str:
    """The label of the button that leaves rows of a kind out; empty unless they are kept rows of a dataset."""
    removable = bool(kind) and (not findings_view.fault(kind).left_out or kind in _OF_LENGTH)
    number = counts.get(kind, 0)
    if not added or not removable or not number:
        return ""
    return f"Leave these {number:,} out" if number > 1 else "Leave this one out"


def _counts(studio: Studio, key: str) -> dict[str, int]:
    checked = data_view.check_of(studio, key)
    return dict(checked.report.counts) if checked else datasets.get(studio, key).findings
