"""Loss on trained tokens and its gradient, without storing all logits at once.

Computes the logits of some tokens at a time and, from their probabilities, the gradient on the hidden states as well:
the head is frozen, so the gradient of a token is a multiple of one row. Same definition as TRL's fused head (trl 1.16,
`_ChunkedLogProbFunction`). Entropy is not used here, so it is not computed and not reported (reporting.py).
"""

import contextlib
from typing import Any

import torch
from torch import Tensor

from studio.engine.compat.trl import answer_fused_head, fused_output
from studio.engine.fast.ops.prepacked import Making, Weight
from studio.engine.fast.ops.torch_ops import Arithmetic


class TokenScores(torch.autograd.Function):
    """From hidden [n, width], frozen weight [words, width], labels [n]: log p(label) and whether it is highest, [n]."""

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
    """Compute the outputs of the fused head that TRL's trainer requests with TokenScores.

    `causal`: the model itself; weigh: builds its weight.
    """
    words = weigh(lambda: causal.get_output_embeddings().weight.to(compute))

    def score(_usual: Any, *args: Any, labels: Any, **kwargs: Any) -> Any:
        count = kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        # The fast functions choose their own dtypes, so turn off the autocast that accelerate wraps around the model.
        by_rows = "seq_lengths" in kwargs
        with torch.autocast(labels.device.type, enabled=False) if by_rows else contextlib.nullcontext():
            mask = labels[:, 1:] != -100
            trained = mask.flatten().nonzero().squeeze(-1)
            options = {"seq_asked": trained} if "seq_read" in kwargs else {}
            hidden = causal.base_model(*args, **kwargs, **options).last_hidden_state[:, :-1].flatten(0, 1)
            read = hidden.index_select(0, trained).to(compute)
            outputs = TokenScores.apply(read, words.made(), labels[:, 1:][mask], by)
        chances, best = (output.new_zeros(mask.shape).masked_scatter(mask, output) for output in outputs)
        loss = -chances.sum() / (mask.sum().clamp(min=1) if count is None else count)
        return fused_output(loss, chances, best, mask)

    answer_fused_head(causal, score)
