"""Select the examples held out of training for evaluation."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from studio.dataset.record import Record


def held_out_rows(records: Sequence[Record], share: float, seed: int) -> set[int]:
    """Row numbers held out of training for a share and a seed.

    Rows are ordered by a hash of the seed and their group, so rows that repeat each other, exactly or nearly, are on
    the same side. Empty for a dataset that already contains held-out rows.
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
    """Groups of row numbers, in an order that depends only on the seed and the content."""
    groups: dict[str, list[int]] = {}
    for record in records:
        content = [seed, record.group] if record.group else [seed, record.messages, record.text]
        key = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
        groups.setdefault(key, []).append(record.row)
    return [groups[key] for key in sorted(groups)]
