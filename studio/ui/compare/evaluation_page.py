"""Evaluations as HTML: figures with their intervals, the table of answers, and a single file to share.

Plain functions from a service's result to HTML. The shared file contains no script and fetches nothing.
"""

import json
from collections.abc import Sequence

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
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc

PAGE = 10
_SHAPES = {"better": "good", "worse": "bad", "cannot tell": "queued"}
_ENDS = {
    "length": "<small>cut at the maximum answer length</small>",
    "too long": "<small>the prompt is longer than the model's context</small>",
}
_CUT = 1_200  # characters of a text that is shown in the table
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def scores(info: EvaluationInfo, result: Result, judge: str = "") -> str:
    """All figures: for each set the sentences first, then the figures they are based on."""
    judge_line = f'<p class="judge-said">{markup.mark("good", "judge")} {esc(judge)}</p>' if judge else ""
    return judge_line + "".join(_set(info, item) for item in result.sets)


def _set(info: EvaluationInfo, item: SetScores) -> str:
    title = "Was anything forgotten?" if item.kind == "general" else item.title
    sentences = "".join(
        f'<p class="sentence"><b>{esc(info.columns.get(column, column))}</b> {esc(text)}</p>'
        for column, text in item.sentences.items()
    )
    rows = [_figure(info, score, column) for score in item.scores for column in score.differences]
    heads = ("Figure", "Base", "Adapted", "Change, with its 95% interval", "")
    figures = markup.table(heads, rows, f"Figures of {item.title}", "figures") if rows else ""
    count = f"{item.prompts:,} prompts"
    return f'<section class="scores"><h3>{esc(title)}<span>{esc(count)}</span></h3>{sentences}{figures}</section>'


def _figure(info: EvaluationInfo, score: Score, column: str) -> list[str]:
    difference = score.differences[column]
    which = f"<small>{esc(info.columns.get(column, column))}</small>" if len(score.differences) > 1 else ""
    return [
        f"<b>{esc(score.label)}</b><small>{esc(score.about)}</small>",
        esc(describe(score, BASE)),
        f"{esc(describe(score, column))}{which}",
        f"{_bar(score, column)}<small>{esc(evidence(score, column))}</small>",
        markup.mark(_SHAPES[difference.word], difference.word),
    ]


def _bar(score: Score, column: str) -> str:
    """The interval around a change, on a line with zero in the middle; its length is the largest possible change."""
    delta = score.differences[column]
    bound = {"share": 1.0, "points": 100.0}.get(score.unit, 0.0) or max(abs(delta.low), abs(delta.high), 1e-9) * 1.1

    def place(value: float) -> float:
        return min(100.0, max(0.0, 50 + 50 * value / bound))

    low, high = place(delta.low), place(delta.high)
    return (
        f'<span class="interval interval-{_SHAPES[delta.word]}" role="img" aria-label="{esc(evidence(score, column))}">'
        f'<i class="zero"></i><i class="range" style="left:{low:.2f}%;width:{max(0.8, high - low):.2f}%"></i>'
        f'<i class="dot" style="left:{place(delta.value):.2f}%"></i></span>'
    )


def chosen_rows(result: Result, which: str, names: Sequence[str] = ()) -> list[tuple[int, Row]]:
    """Rows with their places: all of them or those whose marks differ, limited to the sets `names` if any are given."""
    rows = []
    for place, row in enumerate(result.rows):
        marks = {mark_of(row.prompt, answer) for answer in row.answers.values()}
        if (not names or row.set in names) and (which == "all" or len(marks) > 1):
            rows.append((place, row))
    return rows


def table(info: EvaluationInfo, rows: Sequence[tuple[int, Row]], offset: int = 0, page: int = PAGE) -> str:
    """Prompts and answers: the reference first, then each column's answer with its mark."""
    shown = rows[offset : offset + page]
    heads = ["", "Prompt", "Reference or expectation", *(_head(info, column) for column in info.columns)]
    body = [
        [str(place + 1), _text(row.prompt.question), _wanted(row), *(_answer(row, column) for column in info.columns)]
        for place, row in shown
    ]
    if not body:
        return markup.note("No prompt of this evaluation matches.")
    return markup.table(heads, body, "Prompts and answers", "answers") + markup.pager(
        len(rows), offset, page, "prompts"
    )


def _head(info: EvaluationInfo, column: str) -> str:
    return f"Base: {info.columns[column]}" if column == BASE else f"Adapted: {info.columns[column]}"


def _text(text: str) -> str:
    cut = text if len(text) <= _CUT else text[:_CUT] + " …"
    return f'<div class="whole">{esc(cut)}</div>'


def _wanted(row: Row) -> str:
    check = f"<small>{esc(row.prompt.check.words)}</small>" if row.prompt.check else ""
    return (_text(row.prompt.reference) if row.prompt.reference else "") + check


def _answer(row: Row, column: str) -> str:
    answer, verdict = row.answers[column], mark_of(row.prompt, row.answers[column])
    mark = markup.mark(*verdict) if verdict else ""
    cut = _ENDS.get(row.ends.get(column, ""), "")
    side = "base" if column == BASE else "adapted"
    return f'<div class="cell cell-{side}">{_text(answer) if answer else "<small>no answer</small>"}{mark}{cut}</div>'


def share(studio: Studio, evaluation_id: str, form: str) -> str:
    """A finished evaluation as the text of one self-contained file. form: html or json."""
    info, result = evaluations.get(studio, evaluation_id), evaluations.result(studio, evaluation_id)
    if form == "json":
        return json.dumps(evaluations.as_dict(studio, info.id), ensure_ascii=False, indent=1) + "\n"
    if form != "html":
        raise BadInput(f"An evaluation can be shared as html or json, not as {form}.")
    judgement = evaluations.judgement(studio, info.id)
    rows = list(enumerate(result.rows))
    title = f"{info.name} against {info.columns[BASE]}"
    styles = "".join((resources.static() / name).read_text(encoding="utf-8") for name in ("share.css", "scores.css"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{styles}</style></head><body>"
        f"<h1>{esc(title)}</h1><p>Evaluated with LoRA Studio on {esc(units.exact(info.created))}.</p>"
        f"{scores(info, result, str(judgement['sentence']) if judgement else '')}"
        f"<h2>Prompts and answers</h2>{table(info, rows, page=max(1, len(rows)))}</body></html>\n"
    )
