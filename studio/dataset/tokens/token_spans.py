"""Convert the trained ranges of a text from characters to tokens, by the tokenizer's offsets."""

from collections.abc import Collection, Iterable

from tokenizers import Encoding

from studio.dataset.tokens.masks import Span


def token_spans(encoding: Encoding, text: str, spans: Iterable[Span], special: Collection[int]) -> tuple[Span, ...]:
    """Convert character ranges to token ranges: every token that overlaps a range belongs to it.

    special: ids of special tokens. Some of them absorb the white space at the start of an answer; they are not part of
    it.
    """
    offsets: list[Span] | None = None
    ranges: list[Span] = []
    reached = 0
    for start, end in spans:
        if start >= end:
            continue
        first = encoding.char_to_token(start)
        # A non-ASCII character may take several tokens, and the library returns the first of them.
        last = encoding.char_to_token(end - 1) if text[end - 1] < "\x80" else None
        if first is None or last is None:
            # White space that the tokenizer trims from its offsets belongs to a zero-width token at its end.
            offsets = encoding.offsets if offsets is None else offsets
            first, last = _overlapping(offsets, start, end)
        first = max(first, reached)
        around = encoding.token_to_chars(first) if first <= last else None
        if around is not None and around[0] < start and encoding.ids[first] in special:
            first += 1
        if first <= last:
            ranges.append((first, last + 1))
            reached = last + 1
    return tuple(ranges)


def _overlapping(offsets: list[Span], start: int, end: int) -> Span:
    """First and last token that overlaps [start, end); last < first when none does."""
    first = next((token for token, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
    last = first - 1
    for token in range(first, len(offsets)):
        begin, stop = offsets[token]
        if stop <= start:  # a token that the tokenizer added after the text
            continue
        # A zero-width token represents the white space before it.
        if begin >= end and not begin == stop == end:
            break
        last = token
    return first, last
