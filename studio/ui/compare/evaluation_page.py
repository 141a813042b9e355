"""Evaluations as HTML: figures with their intervals, the table of answers, and a single file to share.

Plain functions from a service's result to HTML. The shared file contains no script and fetches nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from studio import resources
from studio.errors import BadInput
from studio.services.core.studio import Studio
from studio.services.evals import evaluations
from studio.services.evals.evaluations import (
    BASE,
    EvaluationInfo,
    Result,
    Row,
    Score,
    SetScores,
    describe,
    evidence,
    mark_of,
)
from studio.ui.parts.templates import render

PAGE = 10
_STATES = {"better": "good", "worse": "bad", "cannot tell": "queued"}  # the icon of a change
_ENDS = {
    "length": "cut at the maximum answer length",
    "too long": "the prompt is longer than the model's context",
}
_CUT = 1_200  # characters of a text that is shown in the table


@dataclass(frozen=True, slots=True)
class _Figure:
    """A column's change of one figure.

    column: its title where there are several; left, width, dot: its interval, in percent of the line it is drawn on.
    """

    label: str
    about: str
    base: str
    adapted: str
    column: str
    evidence: str
    state: str
    word: str
    left: float
    width: float
    dot: float


@dataclass(frozen=True, slots=True)
class _SetView:
    """The scores of a prompt set as they are shown. sentences: pairs of a column's title and its sentence."""

    title: str
    name: str
    prompts: int
    sentences: Sequence[tuple[str, str]]
    figures: Sequence[_Figure]


@dataclass(frozen=True, slots=True)
class _Cell:
    """One column's answer. mark: its verdict and words, or None; cut: why it is not whole."""

    side: str
    answer: str
    mark: tuple[str, str] | None
    cut: str


@dataclass(frozen=True, slots=True)
class _RowView:
    """One prompt with its answers as it is shown; number counts from 1."""

    number: int
    question: str
    reference: str
    expected: str
    cells: Sequence[_Cell]


def scores(info: EvaluationInfo, result: Result, judge: str = "") -> Markup:
    """All figures, with the sentence of a judge if one was asked."""
    return render("compare/scores.html", judge=judge, sets=[_set(info, item) for item in result.sets])


def _set(info: EvaluationInfo, item: SetScores) -> _SetView:
    return _SetView(
        title="Was anything forgotten?" if item.kind == "general" else item.title,
        name=item.title,
        prompts=item.prompts,
        sentences=[(info.columns.get(column, column), text) for column, text in item.sentences.items()],
        figures=[_figure(info, score, column) for score in item.scores for column in score.differences],
    )


def _figure(info: EvaluationInfo, score: Score, column: str) -> _Figure:
    """A change and its interval, on a line with zero in the middle; its length is the largest possible change."""
    delta = score.differences[column]
    bound = {"share": 1.0, "points": 100.0}.get(score.unit, 0.0) or max(abs(delta.low), abs(delta.high), 1e-9) * 1.1

    def place(value: float) -> float:
        return min(100.0, max(0.0, 50 + 50 * value / bound))

    low, high = place(delta.low), place(delta.high)
    return _Figure(
        label=score.label,
        about=score.about,
        base=describe(score, BASE),
        adapted=describe(score, column),
        column=info.columns.get(column, column) if len(score.differences) > 1 else "",
        evidence=evidence(score, column),
        state=_STATES[delta.word],
        word=delta.word,
        left=low,
        width=max(0.8, high - low),
        dot=place(delta.value),
    )


def chosen_rows(result: Result, which: str, names: Sequence[str] = ()) -> list[tuple[int, Row]]:
    """Rows with their places: all of them or those whose marks differ, limited to the sets `names` if any are given."""
    rows = []
    for place, row in enumerate(result.rows):
        marks = {mark_of(row.prompt, answer) for answer in row.answers.values()}
        if (not names or row.set in names) and (which == "all" or len(marks) > 1):
            rows.append((place, row))
    return rows


def table(info: EvaluationInfo, rows: Sequence[tuple[int, Row]], offset: int = 0, page: int = PAGE) -> Markup:
    """Prompts and answers: the reference first, then each column's answer with its mark."""
    return render(
        "compare/answers.html",
        columns=[f"{'Base' if name == BASE else 'Adapted'}: {title}" for name, title in info.columns.items()],
        rows=[_row(info, place, row) for place, row in rows[offset : offset + page]],
        total=len(rows),
        offset=offset,
        page=page,
    )


def _row(info: EvaluationInfo, place: int, row: Row) -> _RowView:
    return _RowView(
        number=place + 1,
        question=_shortened(row.prompt.question),
        reference=_shortened(row.prompt.reference),
        expected=row.prompt.check.words if row.prompt.check else "",
        cells=[_cell(row, column) for column in info.columns],
    )


def _cell(row: Row, column: str) -> _Cell:
    answer = row.answers[column]
    return _Cell(
        side="base" if column == BASE else "adapted",
        answer=_shortened(answer),
        mark=mark_of(row.prompt, answer),
        cut=_ENDS.get(row.ends.get(column, ""), ""),
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _CUT else text[:_CUT] + " …"


def share(studio: Studio, evaluation_id: str, form: str) -> str:
    """A finished evaluation as the text of one self-contained file. form: html or json."""
    info, result = evaluations.get(studio, evaluation_id), evaluations.result(studio, evaluation_id)
    if form == "json":
        return json.dumps(evaluations.as_dict(studio, info.id), ensure_ascii=False, indent=1) + "\n"
    if form != "html":
        raise BadInput(f"An evaluation can be shared as html or json, not as {form}.")
    judgement = evaluations.judgement(studio, info.id)
    rows = list(enumerate(result.rows))
    styles = "".join((resources.static() / name).read_text(encoding="utf-8") for name in ("share.css", "scores.css"))
    return render(
        "compare/evaluation_file.html",
        title=f"{info.name} against {info.columns[BASE]}",
        styles=Markup(styles),  # noqa: S704 - the studio's own; in a style sheet nothing may be escaped
        created=info.created,
        scores=scores(info, result, str(judgement["sentence"]) if judgement else ""),
        answers=table(info, rows, page=max(1, len(rows))),
    )
