"""The lengths of a dataset's examples: figures, the effect of max_length in a sentence, and a histogram."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from studio.services.data.examples import LengthView
from studio.ui.parts import units
from studio.ui.parts.templates import render

_HEIGHT, _TOP, _FOOT = 150, 20, 20
_FLOOR = _HEIGHT - _FOOT
# The settings that remove the cause of a remark.
_FIXES = {"system_left_out": "fold_system", "thought_left_out": "per_answer"}


@dataclass(frozen=True)
class _Bar:
    """A bar for the `count` examples of `start` up to `end` tokens: left and width in percent, height in pixels."""

    kind: str
    left: float
    width: float
    height: float
    start: int
    end: int
    count: int


def show(view: LengthView, rows: int, values: Mapping[str, Any]) -> Markup:
    """The whole view, the sentence first. rows: of the dataset; values: the recipe values it was counted with."""
    cut, last = view.max_length, max(1, view.edges[-1])
    highest = max(1, *view.counts)
    span = cut * 1.02 if last < cut <= 1.6 * last else float(last)
    return render(
        "data/lengths.html",
        view=view,
        rows=rows,
        values=values,
        fixes=_FIXES,
        refusal_fix=_refusal_fix(view.refused[1], values),
        kind="bad" if view.rows_untrained else "warn" if view.answers_lost else "plain" if view.rows_cut else "good",
        trained_share=units.percent(view.tokens["trained"], view.tokens["total"]),
        height=_HEIGHT,
        floor=_FLOOR,
        span=span,
        bars=_bars(view, span, highest),
        highest=highest,
        ticks=_ticks(span),
    )


def _refusal_fix(reason: str, values: Mapping[str, Any]) -> str:
    """The setting that helps when a template refuses examples for this reason, or an empty text."""
    return "fold_system" if "system" in reason.lower() and not values["fold_system"] else ""


def _bars(view: LengthView, span: float, highest: int) -> list[_Bar]:
    """Bars of the number of examples per length, split at max_length.

    span: the length at the right edge; highest: the largest count.
    """
    # A bar extends past its longest example; when no example is cut, no bar is hatched.
    edge = view.max_length if view.rows_cut else max(1, view.edges[-1])
    bars = []
    for start, end, count in zip(view.edges, view.edges[1:], view.counts, strict=False):
        if count:
            height = max(2.0, (_FLOOR - _TOP - 6) * count / highest)
            for left, right, kind in ((start, min(end, edge), "kept"), (max(start, edge), end, "beyond")):
                if right > left:
                    width = max(0.12, 100 * (right - left) / span - 0.18)
                    bars.append(_Bar(kind, 100 * left / span, width, height, start, end, count))
    return bars


def _ticks(span: float) -> list[int]:
    """At most six round numbers from 0 to span."""
    step = next(size * 10**power for power in range(9) for size in (1, 2, 5) if span <= 5 * size * 10**power)
    return list(range(0, int(span) + 1, step))
