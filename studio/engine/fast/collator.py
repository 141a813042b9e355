"""Batches without padding: the rows of a batch one behind another."""

from dataclasses import dataclass, replace
from typing import Any

from studio.engine.fast.prefixes import shared_prefixes


@dataclass(slots=True)
class RowCollator:
    """Rows as one row [1, tokens], `seq_lengths` saying where each ends; others as `plain` has them.

    Such a row has `seq_lengths` too: of the examples that lie in it. Where something is spared, it is told beside it:
    `seq_read` [rows], how many tokens it takes to guess the last one that is trained; `seq_prefixes` [rows, 2], for
    each the row before it whose first tokens are its own too, and how many (prefixes.py).

    spares: whether anything is; otherwise every token goes through every layer.
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
        # A row's first token is what the row before it would have to guess.
        labels[lengths.cumsum(0) - lengths] = -100
        batch = {
            "seq_lengths": lengths,  # first: by its length the trainer knows how many rows an evaluation's loss is of
            "input_ids": torch.tensor(tokens)[None],
            "labels": labels[None],
            "position_ids": torch.cat([torch.arange(int(length)) for length in lengths])[None],
        }
        if self.spares:
            starts = (lengths.cumsum(0) - lengths).tolist()
            trained = [(labels[first:end] != -100).nonzero() for first, end in zip(starts, ends, strict=True)]
            read = [max(1, int(one[-1])) if len(one) else 1 for one in trained]
            prefixes = shared_prefixes([tokens[first : first + n] for first, n in zip(starts, read, strict=True)])
            batch |= {"seq_read": torch.tensor(read), "seq_prefixes": torch.tensor(prefixes)}
        return batch


def sparing_nothing(collator: Any) -> Any:
    """A trainer's collator with every token of every row computed: the most that a batch of these lengths can need."""
    return replace(collator, spares=False) if isinstance(collator, RowCollator) else collator


def longest_of(batch: dict[str, Any]) -> int:
    """Tokens of the longest row of a batch, padded or not."""
    lengths = batch.get("seq_lengths")
    return int(batch["input_ids"].shape[-1] if lengths is None else lengths.max())
