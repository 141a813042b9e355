"""Word-by-word differences between two answers, as HTML. Marked by underline and weight as well as by colour."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from studio.ui.parts.markup import esc

MOST = 1500  # words: the time to find the best match grows with their square
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def highlight_differences(text: str, other: str) -> str:
    """`text` as HTML, with the words that differ from `other` marked; unmarked where either text is too long."""
    words, against = _WORDS.findall(text), _WORDS.findall(other)
    if max(len(words), len(against)) > MOST:
        return esc(text)
    matcher = SequenceMatcher(None, words, against, autojunk=False)
    return "".join(
        _as_is(words[begin:end]) if tag == "equal" else _apart(words[begin:end])
        for tag, begin, end, _, _ in matcher.get_opcodes()
    )


def too_long(*texts: str) -> bool:
    """Whether one of these texts is too long for `highlight_differences`."""
    return any(len(_WORDS.findall(text)) > MOST for text in texts)


def _as_is(words: Sequence[str]) -> str:
    return esc("".join(words))


def _apart(words: Sequence[str]) -> str:
    text = "".join(words)
    return f'<mark class="apart">{esc(text)}</mark>' if text.strip() else esc(text)
