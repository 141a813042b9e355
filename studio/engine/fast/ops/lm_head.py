"""The loss on trained tokens, and its gradient, without ever holding all their scores over the vocabulary.

Some rows at a time are multiplied with the vocabulary, and while their probabilities are there the gradient is made of
them as well: the head is frozen, so a trained token's is a multiple of one row. Same definition as TRL's fused head
(trl 1.16, `_ChunkedLogProbFunction`); entropy, which nobody here reads, is not computed and not
reported elsewhere (reporting.py).
"""

import contextlib
from typing import Any

import torch
from torch import Tensor

from studio.engine.compat.trl import answer_fused_head, fused_output
from studio.engine.fast.ops.prepacked import Making, Weight
from studio.engine.fast.ops.torch_ops import Arithmetic


class TokenScores(torch.autograd.Function):
    """hidden [n, width], frozen weight [words, width], labels [n] to log p(label) and whether that is highest, [n]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Weight, labels: Tensor, by: Arithmetic) -> tuple[Tensor, Tensor]:
        learns = ctx.needs_input_grad[0]
        chances, best, pull = by.token_scores(hidden, weight, labels, learns)
        ctx.save_for_backward(*([pull] if learns else []))
        ctx.mark_non_differentiable(best)
        return chances, best

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (pull,) = ctx.saved_tensors
        return pull * gradients[0].neg().unsqueeze(-1).to(pull.dtype), None, None, None


def score_trained_positions(causal: Any, compute: torch.dtype, by: Arithmetic, weigh: Making) -> None:
    """Let TRL's trainer find the outputs of its fused head made by TokenScores. `causal`: the model itself; weigh:
    makes its weight."""
    words = weigh(lambda: causal.get_output_embeddings().weight.to(compute))

    def score(_usual: Any, *args: Any, labels: Any, **kwargs: Any) -> Any:
        count = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        # The fast functions choose their types themselves; accelerate has put its autocast around the model.
        by_rows = "seq_lengths" in kwargs
        with torch.autocast(labels.device.type, enabled=False) if by_rows else contextlib.nullcontext():
            mask = labels[:, 1:] != -100
            trained = mask.flatten().nonzero().squeeze(-1)
            asked = {"seq_asked": trained} if "seq_read" in kwargs else {}
            hidden = causal.base_model(*args, **kwargs, **asked).last_hidden_state[:, :-1].flatten(0, 1)
            read = hidden.index_select(0, trained).to(compute)
            found = TokenScores.apply(read, words.made(), labels[:, 1:][mask], by)
        chances, best = (one.new_zeros(mask.shape).masked_scatter(mask, one) for one in found)
        loss = -chances.sum() / (mask.sum().clamp(min=1) if count is None else count)
        return fused_output(loss, chances, best, mask)

    answer_fused_head(causal, score)
