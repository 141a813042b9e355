"""Train on packed rows: each example attends only to itself, and its positions start at 0.

transformers builds the mask from the positions if it gets no mask. Not every architecture supports this, so it is
tested before training. dataset.packing chooses which examples share a row.
"""

from dataclasses import dataclass
from typing import Any

from studio.engine.workers.harness import Ended
from studio.rundir import Exit

TRIED_TOKENS = 16
# Share by which the logits of the second of two packed examples may differ. On SmolLM2 a leak changed 0.9 and more, and
# rounding nothing in bfloat16 and nf4; int8 chooses its exact columns by the whole batch, which alone changed 0.26.
TOLERATED = 0.05
TOLERATED_INT8 = 0.5


@dataclass(slots=True)
class PackedCollator:
    """Collate packed rows and add their positions; `plain` is TRL's collator, used alone for unpacked rows."""

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
    """Have `model` (the causal language model itself) build its mask from the positions, if a batch has any.

    The batch's own mask is used by TRL to count tokens; in the model it would let packed examples see each other.
    """

    def without_mask(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("position_ids") is not None:
            kwargs["attention_mask"] = None
        return args, kwargs

    model.base_model.register_forward_pre_hook(without_mask, with_kwargs=True)


def check_apart(model: Any, first: list[int], second: list[int], name: str, tolerated: float = TOLERATED) -> None:
    """End the run if an example gives other logits after another example than alone."""
    import torch

    first, second = first[:TRIED_TOKENS], second[:TRIED_TOKENS]
    positions = [*range(len(first)), *range(len(second))]
    device = next(model.parameters()).device

    def second_logits(ids: list[int], places: list[int]) -> Any:
        input_ids, position_ids = torch.tensor([ids], device=device), torch.tensor([places], device=device)
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits[0]
        return logits[-len(second) :].float()

    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = second_logits(second, [*range(len(second))])
        packed = second_logits(first + second, positions)
        reversed_first = second_logits(first[::-1] + second, positions)
    model.train(was_training)
    size = float((alone - alone.mean(-1, keepdim=True)).norm())
    if max(float((packed - alone).norm()), float((packed - reversed_first).norm())) > tolerated * size:
        raise Ended(
            Exit("failed", f"The model {name} mixes up examples that are packed into one row.", "Turn off packing.")
        )
