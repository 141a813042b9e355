"""Batches without padding: the rows of a batch one behind another."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class RowCollator:
    """Rows as one row [1, tokens], `seq_lengths` saying where each ends; others as `plain` has them.

    Such a row has `seq_lengths` too: of the examples that lie in it.
    """

    plain: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if "seq_lengths" not in rows[0]:
            return dict(self.plain(rows))
        lengths = torch.tensor([length for row in rows for length in row["seq_lengths"]])
        labels = torch.tensor([label for row in rows for label in row["labels"]])
        # A row's first token is what the row before it would have to guess.
        labels[lengths.cumsum(0) - lengths] = -100
        return {
            "seq_lengths": lengths,  # first: by its length the trainer knows how many rows an evaluation's loss is of
            "input_ids": torch.tensor([token for row in rows for token in row["input_ids"]])[None],
            "labels": labels[None],
            "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None],
        }


def longest_of(batch: dict[str, Any]) -> int:
    """Tokens of the longest row of a batch, padded or not."""
    lengths = batch.get("seq_lengths")
    return int(batch["input_ids"].shape[-1] if lengths is None else lengths.max())
