"""Find prefixes shared by rows of a batch: a system prompt, template text, a question with several answers.

With causal attention, later tokens do not change what a model computes for a token, so the tokens that a row shares
with an earlier row need not be computed twice. layout.py and engine/fast/ops/attention.py use this.
"""

import bisect

from studio.recipe.fast_path import LEAST_SHARED

APART = (-1, 0)


def shared_prefixes(rows: list[list[int]]) -> list[tuple[int, int]]:
    """Return, for each row, the earlier row with the longest shared prefix and its number of tokens.

    (-1, 0) if the prefix is too short to gain anything. A row's last token is never shared.
    """
    shared, earlier = [], list[tuple[list[int], int]]()
    for number, tokens in enumerate(rows):
        place = bisect.bisect(earlier, (tokens, number))
        # In lexicographic order, the rows with the longest shared prefix are neighbours.
        length, host = max(
            ((_shared_length(tokens[:-1], other), row) for other, row in earlier[max(0, place - 1) : place + 1]),
            default=(0, -1),
        )
        shared.append((host, length) if length >= LEAST_SHARED else APART)
        earlier.insert(place, (tokens, number))
    return shared


def common_prefix(rows: list[list[int]]) -> int:
    """Return the number of tokens shared by all rows at their start; 0 if too few to gain anything."""
    length = _shared_length(min(rows), max(rows)) if len(rows) > 1 else 0
    return length if length >= LEAST_SHARED else 0


def _shared_length(one: list[int], other: list[int]) -> int:
    """Return the number of tokens before the first difference."""
    ends = min(len(one), len(other))
    return next((place for place in range(ends) if one[place] != other[place]), ends)
