"""A comparison as one self-contained HTML file: no script, font, picture or network request."""

import time
from dataclasses import replace

from markupsafe import Markup

from studio.services.chat.comparisons import Comparison, Turn
from studio.ui.compare import view as compare_view
from studio.ui.compare.view import TurnView
from studio.ui.parts.templates import render

# Sent with the file; the file itself repeats it, for a browser that opens it from a disk (shared_file.html).
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NAMES = {
    "max_new_tokens": "maximum answer length", "temperature": "temperature", "top_p": "top p", "top_k": "top k",
    "repetition_penalty": "repetition penalty", "seed": "seed",
}  # fmt: skip


def page(comparison: Comparison, made_by: str) -> Markup:
    """The whole HTML file."""
    first = comparison.turns[0] if comparison.turns else None
    names = " and ".join(who.title for who in first.sides) if first else "no answers yet"
    return render(
        "compare/comparison_file.html",
        title=f"Comparison: {names}",
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(comparison.created)),
        model=first.sides[0].model if first else "",
        made_by=made_by,
        turns=[_turn(turn) for turn in comparison.turns],
    )


def _turn(turn: Turn) -> TurnView:
    """A turn with the system prompt and the sampling settings above its answers."""
    settings = ", ".join(f"{words} {getattr(turn.sampling, name):g}" for name, words in _NAMES.items())
    system = turn.system if turn.system.strip() else ""
    return replace(compare_view.turn_view(turn, lambda _: ""), system=system, settings=settings)
