"""What rows of a batch begin with alike: a system prompt, a template's words, a question with several answers.

Under causal attention nothing behind a token changes what a model computes for it, so the tokens that a row shares with
one before it need no second computation. What it does not do: use that (layout.py, engine/fast/ops/attention.py).
"""

import bisect

from studio.recipe.fast_path import LEAST_SHARED

APART = (-1, 0)


def shared_prefixes(rows: list[list[int]]) -> list[tuple[int, int]]:
    """For each row's tokens the earlier row that it has most of its beginning in common with, and how many tokens;
    (-1, 0) where that is too little to gain by. A row always keeps its last token to itself."""
    found, earlier = [], list[tuple[list[int], int]]()
    for number, tokens in enumerate(rows):
        place = bisect.bisect(earlier, (tokens, number))
        # Of rows in the order of a dictionary, the most alike are the neighbours.
        length, host = max(
            ((_alike(tokens[:-1], other), row) for other, row in earlier[max(0, place - 1) : place + 1]),
            default=(0, -1),
        )
        found.append((host, length) if length >= LEAST_SHARED else APART)
        earlier.insert(place, (tokens, number))
    return found


def common_prefix(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with alike, if that is enough to gain by; otherwise 0."""
    length = _alike(min(rows), max(rows)) if len(rows) > 1 else 0
    return length if length >= LEAST_SHARED else 0


def _alike(one: list[int], other: list[int]) -> int:
    """Tokens up to the first that differs."""
    ends = min(len(one), len(other))
    return next((place for place in range(ends) if one[place] != other[place]), ends)
