"""The lengths of a dataset's examples: figures, the effect of max_length in a sentence, and a histogram."""

from dataclasses import dataclass

from markupsafe import Markup

from studio.services.data.examples import LengthView
from studio.ui.parts import units
from studio.ui.parts.templates import render

_HEIGHT, _TOP, _FOOT = 150, 20, 20
_FLOOR = _HEIGHT - _FOOT


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


def show(view: LengthView) -> Markup:
    """The whole view, the sentence first."""
    cut, last = view.max_length, max(1, view.edges[-1])
    highest = max(1, *view.counts)
    span = cut * 1.02 if last < cut <= 1.6 * last else float(last)
    return render(
        "data/lengths.html",
        view=view,
        kind="bad" if view.rows_untrained else "warn" if view.answers_lost else "plain" if view.rows_cut else "good",
        trained_share=units.percent(view.tokens["trained"], view.tokens["total"]),
        height=_HEIGHT,
        floor=_FLOOR,
        span=span,
        bars=_bars(view, span, highest),
        highest=highest,
        ticks=_ticks(span),
    )


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
