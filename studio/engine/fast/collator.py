"""Batches without padding: the rows of a batch are concatenated."""

from dataclasses import dataclass, replace
from typing import Any

from studio.engine.fast.prefixes import shared_prefixes


@dataclass(slots=True)
class RowCollator:
    """Concatenate rows into one row [1, tokens] with `seq_lengths`; rows without `seq_lengths` go to `plain`.

    The input rows have `seq_lengths` too, the lengths of the examples in them. If tokens are skipped, the batch also
    has `seq_read` [rows], the number of tokens needed to predict the last trained one, and `seq_prefixes` [rows, 2],
    the earlier row with the same first tokens and their number (prefixes.py).

    spares: whether tokens may be skipped; otherwise every token goes through every layer.
    """

    plain: Any
    spares: bool = True

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if "seq_lengths" not in rows[0]:
            return dict(self.plain(rows))
        lengths = torch.tensor([length for row in rows for length in row["seq_lengths"]])
        ends = lengths.cumsum(0).tolist()
        labels = torch.tensor([label for row in rows for label in row["labels"]])
        tokens = [token for row in rows for token in row["input_ids"]]
        # A row's first token would be predicted by the previous row.
        labels[lengths.cumsum(0) - lengths] = -100
        batch = {
            "seq_lengths": lengths,  # first: the trainer reads an evaluation batch's number of rows from it
            "input_ids": torch.tensor(tokens)[None],
            "labels": labels[None],
            "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None],
        }
        if self.spares:
            starts = (lengths.cumsum(0) - lengths).tolist()
            trained = [(labels[first:end] != -100).nonzero() for first, end in zip(starts, ends, strict=True)]
            read = [max(1, int(places[-1])) if len(places) else 1 for places in trained]
            prefixes = shared_prefixes([tokens[first : first + n] for first, n in zip(starts, read, strict=True)])
            batch |= {"seq_read": torch.tensor(read), "seq_prefixes": torch.tensor(prefixes)}
        return batch


def sparing_nothing(collator: Any) -> Any:
    """Return the collator with no token skipped: the most work that a batch of these lengths can need."""
    return replace(collator, spares=False) if isinstance(collator, RowCollator) else collator


def longest_of(batch: dict[str, Any]) -> int:
    """Number of tokens in the longest row of a batch, padded or not."""
    lengths = batch.get("seq_lengths")
    return int(batch["input_ids"].shape[-1] if lengths is None else lengths.max())
