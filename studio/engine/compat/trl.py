"""Unstable names of TRL: what SFTTrainer collects between two metric points, and its fused head.

No other part of the engine uses them.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from studio.engine.compat.contract import Name, OfTrainer


def trained_tokens(trainer: Any) -> int:
    """Number of tokens trained on since training began."""
    return int(trainer._total_train_tokens)


def training_metrics(trainer: Any) -> dict[str, list[float]]:
    """Return the trainer's metrics since the last point, as the lists that it appends to."""
    metrics: dict[str, list[float]] = trainer._metrics["train"]
    return metrics


def restore_training_window(trainer: Any, tokens: int, metrics: Mapping[str, Sequence[float]]) -> None:
    """Restore the trainer's token count and metrics."""
    trainer._total_train_tokens = tokens
    window = trainer._metrics["train"]
    window.clear()
    for name, values in metrics.items():
        window[name].extend(values)


@contextlib.contextmanager
def training_window_kept(trainer: Any) -> Iterator[None]:
    """Restore the trainer's token count and metrics when the context ends."""
    tokens = trained_tokens(trainer)
    metrics = {name: list(values) for name, values in training_metrics(trainer).items()}
    try:
        yield
    finally:
        restore_training_window(trainer, tokens, metrics)


def forget_evaluation(trainer: Any) -> None:
    """Clear the trainer's evaluation metrics."""
    trainer._metrics["eval"].clear()


def answer_fused_head(causal: Any, score: Callable[..., Any]) -> None:
    """Call score(usual, *args, labels=…, **kwargs) when TRL's trainer requests the fused head.

    `causal`: the model itself (not PEFT's wrapper), after SFTTrainer has patched its forward; `usual`: that forward.
    All other calls still go to `usual`.
    """
    usual = causal.forward

    # Keep the signature: generate reads it to find which arguments it may pass.
    @functools.wraps(usual)
    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            return usual(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        return score(usual, *args, labels=labels, **kwargs)

    causal.forward = forward


def fused_output(loss: Any, log_probs: Any, is_top1: Any, label_mask: Any) -> Any:
    """Build the fused head's output for the trainer; entropy, which is not used here, is 0."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    return FusedCausalLMOutput(
        loss=loss, log_probs=log_probs, entropy=torch.zeros_like(log_probs), is_top1=is_top1, label_mask=label_mask
    )


def _asked_for_fused_head(trainer: Any) -> bool:
    """Whether the trainer's loss requests the fused head, and the model takes the arguments we pass."""
    forward = getattr(trainer.model.forward, "__func__", trainer.model.forward)
    taken = set(inspect.signature(forward, follow_wrapped=False).parameters)
    asks = "fused_lm_head" in inspect.getsource(type(trainer).compute_loss)
    return asks and {"fused_lm_head", "labels", "shift_labels", "num_items_in_batch"} <= taken


RELIES_ON: tuple[Name, ...] = (
    OfTrainer(
        "trl.SFTTrainer._metrics",
        "a resumed run would log a wrong accuracy, and the preflight check would count in the first point",
        holds=lambda trainer: trainer._metrics["train"]["new"] == [] and isinstance(trainer._metrics["eval"], dict),
    ),
    OfTrainer(
        "trl.SFTTrainer._total_train_tokens",
        "a resumed run would count its tokens from 0",
        holds=lambda trainer: trainer._total_train_tokens > 0,
    ),
    OfTrainer(
        "trl.SFTTrainer.compute_loss",
        "TRL's own head would compute losses over every position, or fail",
        holds=_asked_for_fused_head,
    ),
    OfTrainer(
        "trl.SFTTrainer._signature_columns",
        "the lengths of packed rows would be dropped before batching",
        holds=lambda trainer: "seq_lengths" in trainer._signature_columns,
    ),
    Name(
        "trl.trainer.utils.FusedCausalLMOutput",
        "the fast path could not return its losses to the trainer",
        takes=("loss", "log_probs", "entropy", "is_top1", "label_mask"),
    ),
)
