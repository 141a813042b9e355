"""Word-by-word differences between two answers, as HTML. Marked by underline and weight as well as by colour."""

import re
from difflib import SequenceMatcher

from markupsafe import Markup

from studio.ui.parts.templates import render

MOST = 1500  # words: the time to find the best match grows with their square
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def highlight_differences(text: str, other: str) -> Markup:
    """`text` as HTML, with the words that differ from `other` marked; unmarked where either text is too long."""
    return render("text_diff.html", pieces=_pieces(text, other))


def too_long(*texts: str) -> bool:
    """Whether one of these texts is too long for `highlight_differences`."""
    return any(len(_WORDS.findall(text)) > MOST for text in texts)


def _pieces(text: str, other: str) -> list[tuple[str, bool]]:
    """`text` in pieces, each with whether it differs from `other`."""
    words, against = _WORDS.findall(text), _WORDS.findall(other)
    if max(len(words), len(against)) > MOST:
        return [(text, False)]
    matcher = SequenceMatcher(None, words, against, autojunk=False)
    return [("".join(words[begin:end]), tag != "equal") for tag, begin, end, _, _ in matcher.get_opcodes()]
