"""Where two answers differ, word by word, as HTML. Marked by an underline and weight as well as by colour."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from studio.ui.parts.markup import esc

MOST = 1500  # words: finding the best match takes time with their square
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def highlight_differences(text: str, other: str) -> str:
    """`text` as HTML, with what is not in `other` at that place marked; unmarked where it is too long to tell."""
    words, against = _WORDS.findall(text), _WORDS.findall(other)
    if max(len(words), len(against)) > MOST:
        return esc(text)
    matcher = SequenceMatcher(None, words, against, autojunk=False)
    return "".join(
        _as_is(words[begin:end]) if tag == "equal" else _apart(words[begin:end])
        for tag, begin, end, _, _ in matcher.get_opcodes()
    )


def too_long(*texts: str) -> bool:
    """Whether one of these is too long for `marked`."""
    return any(len(_WORDS.findall(text)) > MOST for text in texts)


def _as_is(words: Sequence[str]) -> str:
    return esc("".join(words))


def _apart(words: Sequence[str]) -> str:
    text = "".join(words)
    return f'<mark class="apart">{esc(text)}</mark>' if text.strip() else esc(text)
