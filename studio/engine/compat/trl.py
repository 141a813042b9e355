"""The names of TRL that it does not promise to keep: what SFTTrainer gathers between two points, and its fused head.

Nothing else in the engine touches them.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from studio.engine.compat.contract import Name, OfTrainer


def trained_tokens(trainer: Any) -> int:
    """Tokens that the trainer has counted since training began."""
    return int(trainer._total_train_tokens)


def training_metrics(trainer: Any) -> dict[str, list[float]]:
    """What the trainer has gathered since the last point, as the lists that it adds to."""
    found: dict[str, list[float]] = trainer._metrics["train"]
    return found


def restore_training_window(trainer: Any, tokens: int, metrics: Mapping[str, Sequence[float]]) -> None:
    """Let the trainer go on from these numbers."""
    trainer._total_train_tokens = tokens
    gathered = trainer._metrics["train"]
    gathered.clear()
    for name, values in metrics.items():
        gathered[name].extend(values)


@contextlib.contextmanager
def training_window_kept(trainer: Any) -> Iterator[None]:
    """Whatever is trained within leaves no trace in what the trainer has counted and gathered."""
    tokens = trained_tokens(trainer)
    metrics = {name: list(values) for name, values in training_metrics(trainer).items()}
    try:
        yield
    finally:
        restore_training_window(trainer, tokens, metrics)


def forget_evaluation(trainer: Any) -> None:
    """Drop what the trainer has gathered of an evaluation."""
    trainer._metrics["eval"].clear()


def answer_fused_head(causal: Any, score: Callable[..., Any]) -> None:
    """Let score(usual, *args, labels=…, **kwargs) answer where TRL's trainer asks a model for its fused head.

    `causal`: the model itself (not PEFT's wrapper), after SFTTrainer has patched its forward; `usual`: that forward.
    Any other call goes there as before.
    """
    usual = causal.forward

    # Under the same signature: generate looks there for what it may pass on.
    @functools.wraps(usual)
    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            return usual(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        return score(usual, *args, labels=labels, **kwargs)

    causal.forward = forward


def fused_output(loss: Any, log_probs: Any, is_top1: Any, label_mask: Any) -> Any:
    """What the trainer reads from a fused head; the entropy, which nobody here reads, as 0."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    return FusedCausalLMOutput(
        loss=loss, log_probs=log_probs, entropy=torch.zeros_like(log_probs), is_top1=is_top1, label_mask=label_mask
    )


def _asked_for_fused_head(trainer: Any) -> bool:
    """Whether the trainer's model takes what `answer_fused_head` is called with, and its losses ask for it."""
    forward = getattr(trainer.model.forward, "__func__", trainer.model.forward)
    taken = set(inspect.signature(forward, follow_wrapped=False).parameters)
    asks = "fused_lm_head" in inspect.getsource(type(trainer).compute_loss)
    return asks and {"fused_lm_head", "labels", "shift_labels", "num_items_in_batch"} <= taken


RELIES_ON: tuple[Name, ...] = (
    OfTrainer(
        "trl.SFTTrainer._metrics",
        "a resumed run would log another accuracy, and the trial at the beginning would be counted in the first point",
        holds=lambda trainer: trainer._metrics["train"]["new"] == [] and isinstance(trainer._metrics["eval"], dict),
    ),
    OfTrainer(
        "trl.SFTTrainer._total_train_tokens",
        "a resumed run would count its tokens from 0",
        holds=lambda trainer: trainer._total_train_tokens > 0,
    ),
    OfTrainer(
        "trl.SFTTrainer.compute_loss",
        "losses would be computed by TRL's own head over every position, or not at all",
        holds=_asked_for_fused_head,
    ),
    OfTrainer(
        "trl.SFTTrainer._signature_columns",
        "the lengths of packed rows would be dropped before they are batched",
        holds=lambda trainer: "seq_lengths" in trainer._signature_columns,
    ),
    Name(
        "trl.trainer.utils.FusedCausalLMOutput",
        "the losses of the fast path could not be handed to the trainer",
        takes=("loss", "log_probs", "entropy", "is_top1", "label_mask"),
    ),
)
