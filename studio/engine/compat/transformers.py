"""Unstable names of transformers: those of its Trainer and of its modelling files.

No other part of the engine uses them.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from studio.engine.compat.contract import Name, OfTrainer, require


def summed_loss(trainer: Any) -> Any:
    """Return the sum of losses since the last point, as the tensor that the trainer adds to."""
    return trainer._tr_loss


def last_logged_step(trainer: Any) -> int:
    """Return the step of the last point, which determines the divisor of the summed loss."""
    return int(trainer._globalstep_last_logged)


def restore_loss_window(trainer: Any, loss: float, logged: int) -> None:
    """Restore the sum of losses since step `logged`; the trainer resets both when training begins."""
    trainer._tr_loss.fill_(loss)
    trainer._globalstep_last_logged = logged


def use_own_resume(
    trainer: Any, *, weights: Callable[[], None], optimizer: Callable[[], None], rng: Callable[[], None]
) -> None:
    """Have the trainer call these instead of reading a checkpoint's pickles; raise Unavailable if it cannot."""
    require(*RESUME)
    trainer._load_from_checkpoint = lambda *_, **__: weights()
    trainer._load_optimizer_and_scheduler = lambda *_, **__: optimizer()
    trainer._load_scaler = lambda *_, **__: None  # only for fp16, which is not used here
    trainer._load_rng_state = lambda *_, **__: rng()


def items_in_batch(trainer: Any, batch: Any) -> Any:
    """Return the trainer's divisor for the loss of a step that consists of this batch."""
    return trainer._get_num_items_in_batch([batch], trainer.args.device)


@contextlib.contextmanager
def as_whole_step(trainer: Any) -> Iterator[None]:
    """Have the trainer treat each batch as a whole step inside the context."""
    accumulating = getattr(trainer, "current_gradient_accumulation_steps", 1)
    trainer.current_gradient_accumulation_steps = 1
    try:
        yield
    finally:
        trainer.current_gradient_accumulation_steps = accumulating


def callbacks(trainer: Any) -> list[Any]:
    """Return the trainer's callbacks in call order."""
    handlers: list[Any] = trainer.callback_handler.callbacks
    return handlers


def call_first(trainer: Any, callback: Any) -> None:
    """Add a callback that is called before all present ones."""
    trainer.callback_handler.callbacks.insert(0, callback)


def autocast(trainer: Any) -> Any:
    """Return the autocast context of the trainer's forward passes."""
    return trainer.accelerator.autocast()


def attention_of(causal: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a model's attention function and its mask function."""
    from transformers import AttentionInterface, AttentionMaskInterface

    implementation = causal.config._attn_implementation
    eager = getattr(sys.modules[type(causal).__module__], "eager_attention_forward", None)
    return AttentionInterface().get_interface(implementation, eager), AttentionMaskInterface()[implementation]


def replace_rotary_positions(causal: Any, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the rotary-position function in a model's modelling files by `replacement(original)`.

    Affects all models of the family in this process, permanently.
    """
    for name in {type(module).__module__ for module in causal.modules()}:
        modeling = sys.modules[name]
        if name.startswith("transformers.models.") and hasattr(modeling, "apply_rotary_pos_emb"):
            modeling.apply_rotary_pos_emb = replacement(modeling.apply_rotary_pos_emb)  # type: ignore[attr-defined]


def _calls(name: str) -> Callable[[Any], bool]:
    """Check that the trainer's own code calls its method of that name."""

    def called(_: Any) -> bool:
        from transformers import Trainer

        methods = [inspect.unwrap(method) for method in vars(Trainer).values() if inspect.isfunction(method)]
        return any(name in method.__code__.co_names for method in methods)

    return called


def _looked_up_late(family: str) -> Callable[[Any], bool]:
    """Check that a family's attention looks up its rotary function by name at call time."""

    def late(_: Any) -> bool:
        modeling = sys.modules[f"transformers.models.{family}.modeling_{family}"]
        attention = next(value for name, value in vars(modeling).items() if name.endswith("Attention"))
        return "apply_rotary_pos_emb" in attention.forward.__code__.co_names

    return late


RESUME = (
    Name(
        "transformers.Trainer._load_from_checkpoint",
        "resume would look for missing weights or read pickles",
        holds=_calls("_load_from_checkpoint"),
    ),
    Name(
        "transformers.Trainer._load_optimizer_and_scheduler",
        "resume would start with a fresh optimizer and a wrong learning rate",
        holds=_calls("_load_optimizer_and_scheduler"),
    ),
    Name(
        "transformers.Trainer._load_scaler",
        "resume would look for a missing scaler",
        holds=_calls("_load_scaler"),
    ),
    Name(
        "transformers.Trainer._load_rng_state",
        "resume would start with fresh random numbers",
        holds=_calls("_load_rng_state"),
    ),
)
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
RELIES_ON: tuple[Name, ...] = (
    *RESUME,
    OfTrainer(
        "transformers.Trainer._tr_loss",
        "a resumed run would log a wrong loss, and a non-finite step would spoil all later points",
        holds=lambda trainer: trainer._tr_loss.ndim == 0 and trainer._tr_loss.is_floating_point(),
    ),
    OfTrainer(
        "transformers.Trainer._globalstep_last_logged",
        "a resumed run would log a wrong loss",
        holds=lambda trainer: trainer._globalstep_last_logged == trainer.state.global_step,
    ),
    Name(
        "transformers.Trainer._get_num_items_in_batch",
        "the preflight check could not run the longest batch like a step",
        takes=("batch_samples", "device"),
    ),
    OfTrainer(
        "transformers.Trainer.current_gradient_accumulation_steps",
        "the preflight check would divide the loss of the longest batch by a wrong number",
        holds=lambda trainer: trainer.current_gradient_accumulation_steps == 1,
    ),
    OfTrainer(
        "transformers.Trainer.callback_handler",
        "no callback could be called first: resume and the preflight check depend on the order",
        holds=lambda trainer: isinstance(trainer.callback_handler.callbacks, list),
    ),
    OfTrainer(
        "transformers.Trainer.accelerator",
        "sample answers would be computed in other dtypes than training",
        holds=lambda trainer: callable(trainer.accelerator.autocast),
    ),
    OfTrainer(
        "transformers.PreTrainedConfig._attn_implementation",
        "the fast path could not determine a model's attention",
        holds=lambda trainer: trainer.model.config._attn_implementation in ("eager", "sdpa"),
    ),
    Name(
        "transformers.AttentionInterface.get_interface",
        "the fast path could not use the model's own attention for answers",
        takes=("attn_implementation", "default"),
    ),
    Name(
        "transformers.AttentionMaskInterface",
        "the fast path could not use the model's own masks for answers",
        holds=lambda interface: {"eager", "sdpa"} <= set(interface()),
    ),
    *(
        Name(
            f"transformers.models.{family}.modeling_{family}.{name}",
            lost,
            takes=takes,
            holds=holds,
        )
        for family in _FAMILIES
        for name, lost, takes, holds in (
            (
                "apply_rotary_pos_emb",
                "the fast path would rotate queries and keys with copies, or not at all",
                ("q", "k", "cos", "sin"),
                _looked_up_late(family),
            ),
            (
                "eager_attention_forward",
                "the fast path could not use the model's own attention for answers",
                ("module", "query", "key", "value", "attention_mask", "scaling"),
                None,
            ),
        )
    ),
)
