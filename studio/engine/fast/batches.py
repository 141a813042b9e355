"""Batches without padding: the rows of a batch one behind another."""

from dataclasses import dataclass, replace
from typing import Any

from studio.engine.fast.prefixes import APART, shared_prefixes


@dataclass(slots=True)
class RowCollator:
    """Rows as one row [1, tokens], `seq_lengths` saying where each ends; others as `plain` has them.

    Such a row has `seq_lengths` too: of the examples that lie in it. `seq_prefixes` [rows, 2]: for each the row before
    it whose first tokens are its own too, and how many (prefixes.py).

    shares: whether to look for any.
    """

    plain: Any
    shares: bool = True

    def apart(self) -> "RowCollator":
        """The same where no row takes anything from another: the most memory that a batch of these lengths can need."""
        return replace(self, shares=False)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if "seq_lengths" not in rows[0]:
            return dict(self.plain(rows))
        lengths = torch.tensor([length for row in rows for length in row["seq_lengths"]])
        labels = torch.tensor([label for row in rows for label in row["labels"]])
        tokens = [token for row in rows for token in row["input_ids"]]
        ends = lengths.cumsum(0).tolist()
        examples = [tokens[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
        # A row's first token is what the row before it would have to guess.
        labels[lengths.cumsum(0) - lengths] = -100
        return {
            "seq_lengths": lengths,  # first: by its length the trainer knows how many rows an evaluation's loss is of
            "seq_prefixes": torch.tensor(shared_prefixes(examples) if self.shares else [APART] * len(examples)),
            "input_ids": torch.tensor(tokens)[None],
            "labels": labels[None],
            "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None],
        }


def longest_of(batch: dict[str, Any]) -> int:
    """Tokens of the longest row of a batch, padded or not."""
    lengths = batch.get("seq_lengths")
    return int(batch["input_ids"].shape[-1] if lengths is None else lengths.max())
