"""Compute logits only at the positions with a label.

On CUDA, TRL's fused language-model head selects the positions with a label; on a CPU it scores every position against
the whole vocabulary and discards most of them (trl 1.16, `add_fused_lm_head`). With completion-only labels that is most
of the head's work. Here the positions are selected before TRL's head, on every device: same positions, same sums, same
loss. TRL's arithmetic and generation are unchanged.
"""

from typing import Any

from studio.engine.compat.trl import answer_fused_head


def score_trained_positions_only(model: Any) -> None:
    """Reduce the hidden states and labels that TRL's patched `model.forward` scores to the positions with a label.

    `model` is the causal language model itself (not the PEFT wrapper), after SFTTrainer has patched it. The outputs
    per token become one row of the labelled positions; TRL only sums over them.
    """
    chosen: list[Any] = []

    def narrow(_module: Any, _inputs: Any, output: Any) -> Any:
        if chosen:
            output.last_hidden_state = output.last_hidden_state[:, :-1][chosen[-1]][None]
        return output

    model.base_model.register_forward_hook(narrow)

    def score(fused: Any, *args: Any, labels: Any, **kwargs: Any) -> Any:
        mask = labels[:, 1:] != -100
        if not bool(mask.any()):
            return fused(*args, fused_lm_head=True, labels=labels, **kwargs)
        chosen.append(mask)
        try:
            return fused(*args, fused_lm_head=True, shift_labels=labels[:, 1:][mask][None], **kwargs)
        finally:
            chosen.pop()

    answer_fused_head(model, score)
