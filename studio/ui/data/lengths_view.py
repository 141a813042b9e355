"""The lengths of a dataset's examples: figures, the effect of max_length in a sentence, and a histogram."""

from studio.services.data.examples import LengthView
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc

_HEIGHT, _TOP, _FOOT = 150, 20, 20
_HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="hatch-ground" width="6" height="6"/><rect class="hatch-line" width="2.4" height="6"/></pattern>'
    "</defs>"
)


def show(view: LengthView) -> str:
    """The whole view, the sentence first."""
    tokens = view.tokens
    figures = markup.facts(
        [
            ("median", f"{tokens['p50']:,}"),
            ("95th percentile", f"{tokens['p95']:,}"),
            ("longest", f"{tokens['max']:,}"),
            ("tokens in total", f"{tokens['total']:,}"),
            ("trained", f"{tokens['trained']:,} <small>{units.percent(tokens['trained'], tokens['total'])}</small>"),
        ]
    )
    kind = "bad" if view.rows_untrained else "warn" if view.answers_lost else "good" if not view.rows_cut else "plain"
    return f'<p class="cost cost-{kind}">{sentence(view)}</p>{figures}{_histogram(view)}'


def sentence(view: LengthView) -> str:
    """The effect of max_length, in one or two sentences; HTML."""
    at = f"At max_length {view.max_length:,} you lose"
    if not view.rows_cut:
        return f"{at} <b>nothing</b>. The longest example has {view.tokens['max']:,} tokens."
    tokens, answers = _many(view.tokens_lost, "token"), _many(view.answers_lost, "whole answer")
    more = ""
    if view.rows_untrained:
        verb = "keeps" if view.rows_untrained == 1 else "keep"
        more = f" {_many(view.rows_untrained, 'example')} {verb} no trained token and would be left out."
    return f"{at} <b>{tokens}</b> of {_many(view.rows_cut, 'example')} and <b>{answers}</b>.{more}"


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _histogram(view: LengthView) -> str:
    """Bars of the number of examples per length; those beyond max_length are hatched.

    Horizontal positions are in percent and heights in pixels, so that it fits any width without stretching its text.
    """
    cut, last = view.max_length, max(1, view.edges[-1])
    span = cut * 1.02 if last < cut <= 1.6 * last else float(last)
    # A bar extends past its longest example; when no example is cut, no bar is hatched.
    edge = cut if view.rows_cut else last
    highest = max(1, *view.counts)
    floor = _HEIGHT - _FOOT
    bars = []
    for start, end, number in zip(view.edges, view.edges[1:], view.counts, strict=False):
        if number:
            height = max(2.0, (floor - _TOP - 6) * number / highest)
            tooltip = f"<title>{start:,} to {end - 1:,} tokens: {_many(number, 'example')}</title>"
            for left, right, kind in ((start, min(end, edge), "kept"), (max(start, edge), end, "beyond")):
                if right > left:
                    width = max(0.12, 100 * (right - left) / span - 0.18)
                    bars.append(
                        f'<rect class="{kind}" x="{100 * left / span:.3f}%" y="{floor - height:.1f}" '
                        f'width="{width:.3f}%" height="{height:.1f}">{tooltip}</rect>'
                    )
    ticks = "".join(
        f'<text class="tick" x="{100 * place / span:.2f}%" y="{_HEIGHT - 5}" text-anchor="{_anchor(place / span)}">'
        f"{place:,}</text>"
        for place in _ticks(span)
    )
    base = f'<line class="axis" x1="0" x2="100%" y1="{floor}" y2="{floor}"/>'
    picture = (
        f'<svg class="histogram" width="100%" height="{_HEIGHT}" role="img" aria-label="{esc(_said(view))}">{_HATCH}'
        f"{''.join(bars)}{base}{ticks}{_line(cut, span, floor)}</svg>"
    )
    key = '<span><i class="key-kept"></i>within max_length</span>'
    if view.rows_cut:
        key += '<span><i class="key-beyond"></i>longer: cut at the line</span>'
    return (
        f'<figure class="lengths">{picture}<figcaption><span>Tokens per example, up to '
        f"{_many(highest, 'example')} per bar</span>{key}</figcaption></figure>"
    )


def _line(cut: int, span: float, floor: int) -> str:
    """The line at max_length with its label; beyond the right edge only the label."""
    name = f"max_length {cut:,}"
    if cut > span:
        return f'<text class="cut-name" x="100%" y="12" text-anchor="end">{name} →</text>'
    share = 100 * cut / span
    side, shift = ("end", -6) if share > 50 else ("start", 6)
    return (
        f'<line class="cut-line" x1="{share:.2f}%" x2="{share:.2f}%" y1="2" y2="{floor + 4}"/>'
        f'<text class="cut-name" x="{share:.2f}%" dx="{shift}" y="12" text-anchor="{side}">{name}</text>'
    )


def _ticks(span: float) -> list[int]:
    """At most six round numbers from 0 to span."""
    step = next(size * 10**power for power in range(9) for size in (1, 2, 5) if span <= 5 * size * 10**power)
    return list(range(0, int(span) + 1, step))


def _anchor(share: float) -> str:
    return "start" if share < 0.03 else "end" if share > 0.97 else "middle"


def _said(view: LengthView) -> str:
    tokens = view.tokens
    return (
        f"Histogram of example lengths from {tokens['min']:,} to {tokens['max']:,} tokens; half have at most "
        f"{tokens['p50']:,}. {_many(view.rows_cut, 'example')} are longer than max_length {view.max_length:,}."
    )
