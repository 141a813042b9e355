"""A dataset's findings as HTML: the verdict, filters with counts, a page of findings, rejects to download."""

from collections.abc import Mapping
from typing import Any

from studio.services.data.checks import FAULTS
from studio.services.data.examples import Found, FoundPage
from studio.ui.parts import markup
from studio.ui.parts.markup import esc

PAGE = 10


def fault(kind: str) -> Any:
    return FAULTS[kind]  # type: ignore[index]


def kinds(kind: str) -> list[Any]:
    """The kinds of findings that a filter passes; an empty list means all."""
    return [kind] if kind in FAULTS else []


def verdict(mark: str, text: str, leaves: bool) -> str:
    """One sentence with an icon. leaves: whether the button that leaves rows out is shown."""
    lead, colon, rest = text.partition(":")
    sentence = f"<strong>{esc(lead)}</strong>{colon}{esc(rest)}" if colon else esc(text)
    shows = " data-leaves" if leaves else ""
    return f'<div class="judged judged-{esc(mark)}"{shows}>{markup.mark(mark, " ")}<p>{sentence}</p></div>'


def filters(counts: Mapping[str, int], chosen: str) -> str:
    """A button for each kind found, with its count, grouped by whether their rows are left out or kept."""
    groups = []
    for title, left_out in (("Left out", True), ("Kept", False)):
        kinds = [kind for kind, fault in FAULTS.items() if counts.get(kind) and fault.left_out is left_out]
        if kinds:
            buttons = "".join(_filter(kind, FAULTS[kind].label, counts[kind], chosen) for kind in kinds)
            groups.append(f'<div role="group" aria-label="{title}"><span>{title}</span>{buttons}</div>')
    if not groups:
        return ""
    all_button = _filter("", "all", sum(counts.values()), chosen)
    return f'<div class="filters">{all_button}{"".join(groups)}</div>'


def _filter(kind: str, label: str, number: int, chosen: str) -> str:
    return (
        f'<button type="button" class="filter" data-pick data-kind="{esc(kind)}" '
        f'aria-pressed="{str(kind == chosen).lower()}">{esc(label)} <b>{number:,}</b></button>'
    )


def table(page: FoundPage, offset: int) -> str:
    """One page of findings; the number of a kept row shows it as tokens."""
    if not page.total:
        return ""
    cells = [
        [
            _row(item),
            esc(FAULTS[item.finding.kind].label),
            f"<code>{esc(item.finding.field)}</code>" if item.finding.field else "",
            esc(_sentence(item.finding.reason)) + _raw(item),
            esc(_sentence(item.finding.fix)),
        ]
        for item in page.items
    ]
    heads = ["Row", "What", "Field", "Why", "What to do"]
    return markup.table(heads, cells, "What was found", "found") + markup.pager(page.total, offset, PAGE, "findings")


def downloads(key: str, left_out: int) -> str:
    """Download links for the rows that were left out, as JSONL and CSV."""
    if not left_out:
        return ""
    rows = f"{left_out:,} row{'s' if left_out != 1 else ''} left out"
    links = " ".join(
        f'<a class="download" href="/rejects/{esc(key)}.{form}" download>.{form}</a>' for form in ("jsonl", "csv")
    )
    return f'<p class="rejects">Download the {rows} with the reasons: {links}</p>'


def left_out(counts: Mapping[str, int]) -> int:
    """Number of rows of the file that are not in the dataset; rows without a trained token are in it."""
    return sum(number for kind, number in counts.items() if kind != "untrained" and fault(kind).left_out)


def _row(item: Found) -> str:
    number = f"{item.finding.row:,}"
    badge = "<small>held out</small>" if item.finding.held_out else ""
    if not item.example:
        return f"{number}{badge}"
    return (
        f'<button type="button" class="link" data-pick data-row="{item.example}" '
        f'aria-label="Show row {item.finding.row} as tokens">{number}</button>{badge}'
    )


def _raw(item: Found) -> str:
    raw = item.finding.raw
    if not raw:
        return ""
    shown = raw if len(raw) <= 2000 else raw[:2000] + " …"
    return f'<details class="raw"><summary>original row</summary><pre>{esc(shown)}</pre></details>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if not text or text[-1] in ".!?" else ".")
