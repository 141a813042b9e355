"""A dataset or a checked file as HTML: the list, the title, its origin, pages of examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.errors import NotFound
from studio.services.core.studio import Studio
from studio.services.data import checks, examples
from studio.services.data.checks import Checked
from studio.services.data.datasets import DatasetInfo
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc

PAGE = 25
_WHAT = "The detected format, and why."


def check_of(studio: Studio, key: str) -> Checked | None:
    """The check with this token, or None."""
    try:
        return checks.get(studio, key)
    except NotFound:
        return None


def shaping(template: str, own: str, system: str, on: str, length: float) -> dict[str, Any]:
    """The recipe values that determine what the model sees."""
    return {
        "template": template,
        "custom_template": own if template == "custom" else "",
        "system_prompt": system or "",
        "train_on": on,
        "max_length": int(length),
    }


def shelf(infos: Sequence[DatasetInfo], chosen: str, pending: Checked | None) -> str:
    """The list of datasets as buttons, the chosen one pressed; a file that is not added yet comes first."""
    items = [] if pending is None else [_pending(pending, chosen)]
    items += [
        _item(
            info.id,
            chosen,
            info.name,
            f"<span>{info.rows:,} rows · {esc(info.format)}</span>{markup.verdict_badge(info.mark)}",
        )
        for info in infos
    ]
    return f'<ul class="shelf" aria-label="Datasets">{"".join(items)}</ul>' if items else ""


def _item(key: str, chosen: str, name: str, more: str, kind: str = "") -> str:
    return (
        f'<li><button type="button" class="item {kind}" data-pick data-id="{esc(key)}" '
        f'aria-pressed="{str(key == chosen).lower()}"><b>{esc(name)}</b>{more}</button></li>'
    )


def _pending(checked: Checked, chosen: str) -> str:
    return _item(checked.token, chosen, Path(checked.path).name, "<span>not added yet</span>", "item-pending")


def nothing() -> str:
    """The message of an empty tab."""
    return '<div data-shows="nothing"></div>' + markup.empty(
        "No dataset yet", "Drop a file of examples on the left. It is checked before it is added."
    )


def title(name: str) -> str:
    """The name of a file whose encoding must be chosen."""
    return f'<div class="title" data-shows="decoding"><h2>{esc(name)}</h2></div>'


def head(info: DatasetInfo) -> str:
    """A dataset's name and figures."""
    return _head(
        "dataset",
        info.id,
        info.name,
        [
            ("rows", f"{info.rows:,}"),
            ("held out", f"{info.held_out:,}"),
            ("format", esc(info.format)),
            ("size", esc(units.size(info.size))),
            ("added", markup.when(info.created)),
        ],
    )


def head_of_check(checked: Checked) -> str:
    """A checked file's name and figures."""
    report = checked.report
    pairs = [("format", esc(report.format)), ("checked in", f"{report.seconds:.1f} s")]
    if report.format is None:
        pairs = [("columns", f"{len(report.columns):,}")]
    else:
        counts = [("rows read", f"{report.rows:,}"), ("can be used", f"{report.ok:,}")]
        pairs = counts + ([("held out", f"{report.held_out:,}")] if report.held_out else []) + pairs
    return _head("mapping" if report.format is None else "check", checked.token, Path(checked.path).name, pairs)


def _head(shows: str, key: str, name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A title with figures.

    shows: the kind of thing; static/theme.css hides what does not belong to it. Gradio's own way of hiding a column
    overrides the visibility of its children, and is lost when a second update follows soon after.
    """
    return (
        f'<div class="title" data-shows="{shows}" data-open-dataset="{esc(key)}"><h2>{esc(name)}</h2>'
        f"{markup.facts(pairs)}</div>"
    )


def what(info: DatasetInfo, infos: Sequence[DatasetInfo]) -> str:
    """A dataset's origin and detected format."""
    lines = [_reason(info.format, info.why), _columns(info.columns, info.mapping)]
    if info.parent:
        parent = next((item.name for item in infos if item.id == info.parent), f"{info.parent[:8]} (removed)")
        lines.append(f"A version of <b>{esc(parent)}</b>: {esc(info.changes)}.")
    note = f", {esc(info.note)}" if info.note else ""
    lines.append(
        f'From {esc(info.source)}{note} · <span title="sha256 {esc(info.sha256)}">sha256 '
        f"<code>{esc(info.sha256[:12])}</code></span>"
    )
    return markup.step(1, "What it is", _WHAT) + _lines(lines)


def what_of_check(checked: Checked) -> str:
    """The detected format of a checked file, or that it is unknown."""
    report = checked.report
    lines = [_reason(report.format, report.why)]
    if report.format is not None:
        lines.append(_columns(report.columns, report.mapping))
    second = f" · held out: {esc(Path(checked.options.held_out).name)}" if checked.options.held_out else ""
    lines.append(
        f'{esc(report.note[:1].upper() + report.note[1:])}{second} · <span title="sha256 {esc(report.sha256)}">sha256 '
        f"<code>{esc(report.sha256[:12])}</code></span>"
    )
    return markup.step(1, "What it is", _WHAT) + _lines(lines)


def what_undecodable(error: object) -> str:
    text = "The file is not valid UTF-8. Choose the encoding it was written in."
    return markup.step(1, "What it is", text) + markup.note(error, "warn")


def _reason(form: str | None, why: str) -> str:
    lead = f"Format <b>{esc(form)}</b>" if form else "Unknown format"
    return f"{lead}: {esc(why.rstrip('.'))}."


def _columns(columns: Sequence[str], mapping: Mapping[str, str]) -> str:
    if mapping:
        return "Mapping: " + ", ".join(
            f"{esc(field)} ← <code>{esc(column)}</code>" for field, column in mapping.items()
        )
    shown = ", ".join(f"<code>{esc(name)}</code>" for name in columns[:20])
    return f"Columns {shown}" + (f" and {len(columns) - 20:,} more" if len(columns) > 20 else "")


def _lines(lines: Sequence[str]) -> str:
    return "".join(f'<p class="why">{line}</p>' for line in lines if line)


def rows(studio: Studio, key: str, total: int, offset: int) -> str:
    """One page of examples; a click on a number shows that example as tokens."""
    cells = [
        [
            f'<button type="button" class="link" data-pick data-row="{item["example"]}" '
            f'aria-label="Show example {item["example"]} as tokens">{item["example"]:,}</button>',
            f'<div class="clip">{markup.flat(item["prompt"])}</div>',
            f'<div class="clip">{markup.flat(item["answer"])}</div>',
        ]
        for item in examples.rows(studio, key, offset, PAGE)
    ]
    table = markup.table(["", "Prompt", "Answer"], cells, "Examples", "rows")
    return table + markup.pager(total, offset, PAGE, "examples")
