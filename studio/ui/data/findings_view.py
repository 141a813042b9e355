"""A dataset's findings as HTML: the verdict, filters with counts, a page of findings, rejects to download."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from studio.services.data.checks import FAULTS
from studio.services.data.examples import FoundPage
from studio.ui.parts.templates import render

PAGE = 10


def fault(kind: str) -> Any:
    return FAULTS[kind]  # type: ignore[index]


def kinds(kind: str) -> list[Any]:
    """The kinds of findings that a filter passes; an empty list means all."""
    return [kind] if kind in FAULTS else []


def summary(key: str, mark: str, verdict: str, counts: Mapping[str, int], chosen: str, leaves: bool) -> Markup:
    """The verdict, a filter for each kind and download links for the rejects.

    chosen: the kind that is shown; leaves: whether the button that leaves rows out is shown.
    """
    return render(
        "data/findings_summary.html",
        key=key,
        mark=mark,
        verdict=verdict,
        leaves=leaves,
        groups=_groups(counts),
        total=sum(counts.values()),
        chosen=chosen,
        left_out=_left_out(counts),
    )


def table(page: FoundPage, offset: int) -> str:
    """One page of findings; the number of a kept row shows it as tokens."""
    if not page.total:
        return ""
    return render(
        "data/findings_table.html", items=page.items, total=page.total, offset=offset, page=PAGE, faults=FAULTS
    )


def _groups(counts: Mapping[str, int]) -> Sequence[tuple[str, Sequence[tuple[str, str, int]]]]:
    """The kinds found with their labels and counts, grouped by whether their rows are left out or kept."""
    groups = []
    for title, left_out in (("Left out", True), ("Kept", False)):
        kinds = [
            (kind, fault.label, counts[kind])
            for kind, fault in FAULTS.items()
            if counts.get(kind) and fault.left_out is left_out
        ]
        if kinds:
            groups.append((title, kinds))
    return groups


def _left_out(counts: Mapping[str, int]) -> int:
    """Number of rows of the file that are not in the dataset; rows without a trained token are in it."""
    return sum(number for kind, number in counts.items() if kind != "untrained" and fault(kind).left_out)
