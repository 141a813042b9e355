"""Packed rows as the model needs them: each example sees only itself, and counts its positions from 0.

transformers builds that mask by itself from the positions, when it is given no mask of its own. Not every architecture
honours it, so it is tried out before training. What this does not do: choose what goes into a row (dataset.packing).
"""

from dataclasses import dataclass
from typing import Any

from studio.engine.workers.harness import Ended
from studio.rundir import Exit

TRIED_TOKENS = 16
# Share by which the second of two packed examples may differ. On SmolLM2 a leak changed .9 and more, rounding nothing
# in bfloat16 and nf4; int8 chooses its exact columns by the whole batch, which alone changed .26.
TOLERATED = 0.05
TOLERATED_INT8 = 0.5


@dataclass(slots=True)
class PackedCollator:
    """Batches of packed rows; rows that are not packed (held-out ones) go to `plain`, TRL's own collator."""

    plain: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch = self.plain(rows)
        if "seq_lengths" in rows[0]:
            positions = torch.zeros_like(batch["input_ids"])
            for index, row in enumerate(rows):
                own = torch.cat([torch.arange(length) for length in row["seq_lengths"]])
                positions[index, : len(own)] = own
            batch["position_ids"] = positions
        return dict(batch)


def keep_apart(model: Any) -> None:
    """Let `model` (the causal language model itself) build its mask from the positions where a batch has some.

    The mask that comes along counts the tokens for TRL; given to the model it would undo the separation.
    """

    def without_mask(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("position_ids") is not None:
            kwargs["attention_mask"] = None
        return args, kwargs

    model.base_model.register_forward_pre_hook(without_mask, with_kwargs=True)


def check_apart(model: Any, first: list[int], second: list[int], name: str, tolerated: float = TOLERATED) -> None:
    """End the run when an example behind another one is not answered as it is alone."""
    import torch

    first, second = first[:TRIED_TOKENS], second[:TRIED_TOKENS]
    positions = [*range(len(first)), *range(len(second))]
    device = next(model.parameters()).device

    def answered(ids: list[int], counted: list[int]) -> Any:
        given = torch.tensor([ids], device=device), torch.tensor([counted], device=device)
        logits = model(input_ids=given[0], position_ids=given[1], use_cache=False).logits[0]
        return logits[-len(second) :].float()

    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = answered(second, [*range(len(second))])
        packed = answered(first + second, positions)
        otherwise = answered(first[::-1] + second, positions)
    model.train(was_training)
    size = float((alone - alone.mean(-1, keepdim=True)).norm())
    if max(float((packed - alone).norm()), float((packed - otherwise).norm())) > tolerated * size:
        raise Ended(
            Exit("failed", f"The model {name} mixes up examples that are packed into one row.", "Switch packing off.")
        )
