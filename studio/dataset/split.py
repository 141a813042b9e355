"""Which examples are kept out of training to measure on."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from studio.dataset.read.formats import Record


def held_out_rows(records: Sequence[Record], share: float, seed: int) -> set[int]:
    """Row numbers that a share and a seed keep out of training.

    Rows are ordered by a hash of the seed and their group, so rows that repeat each other, exactly or nearly, fall on
    the same side. A dataset that brings held-out rows of its own is left as it is.
    """
    if share <= 0 or len(records) < 2 or any(record.held_out for record in records):
        return set()
    want = min(max(1, round(share * len(records))), len(records) - 1)
    out: set[int] = set()
    for rows in _in_order(records, seed):
        if len(out) + len(rows) <= want:
            out.update(rows)
    return out


def _in_order(records: Iterable[Record], seed: int) -> list[list[int]]:
    """Groups of row numbers, shuffled by the seed alone."""
    groups: dict[str, list[int]] = {}
    for record in records:
        content = [seed, record.group] if record.group else [seed, record.messages, record.text]
        key = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
        groups.setdefault(key, []).append(record.row)
    return [groups[key] for key in sorted(groups)]
