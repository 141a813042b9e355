"""The names of transformers that it does not promise to keep: those of its Trainer and of its modelling files.

Nothing else in the engine touches them.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from studio.engine.compat.contract import Name, OfTrainer, require


def summed_loss(trainer: Any) -> Any:
    """The sum of losses since the last point, as the tensor that the trainer itself adds to."""
    return trainer._tr_loss


def last_logged_step(trainer: Any) -> int:
    """The step of the last point: what the sum of losses is divided by follows from it."""
    return int(trainer._globalstep_last_logged)


def restore_loss_window(trainer: Any, loss: float, logged: int) -> None:
    """Let the trainer go on from this sum of losses since step `logged`; it made both anew when it began."""
    trainer._tr_loss.fill_(loss)
    trainer._globalstep_last_logged = logged


def use_own_resume(
    trainer: Any, *, weights: Callable[[], None], optimizer: Callable[[], None], rng: Callable[[], None]
) -> None:
    """Have the trainer call these where it would read a checkpoint's pickles; raises Unavailable if it would not."""
    require(*RESUME)
    trainer._load_from_checkpoint = lambda *_, **__: weights()
    trainer._load_optimizer_and_scheduler = lambda *_, **__: optimizer()
    trainer._load_scaler = lambda *_, **__: None  # fp16's, which nothing here uses
    trainer._load_rng_state = lambda *_, **__: rng()


def items_in_batch(trainer: Any, batch: Any) -> Any:
    """By what the trainer divides the loss of a step that is this one batch."""
    return trainer._get_num_items_in_batch([batch], trainer.args.device)


@contextlib.contextmanager
def as_whole_step(trainer: Any) -> Iterator[None]:
    """Within, the trainer takes a batch for all that its step is made of."""
    accumulating = getattr(trainer, "current_gradient_accumulation_steps", 1)
    trainer.current_gradient_accumulation_steps = 1
    try:
        yield
    finally:
        trainer.current_gradient_accumulation_steps = accumulating


def callbacks(trainer: Any) -> list[Any]:
    """The trainer's callbacks in the order in which they are called."""
    found: list[Any] = trainer.callback_handler.callbacks
    return found


def call_first(trainer: Any, callback: Any) -> None:
    """Add a callback that is called before all that are there."""
    trainer.callback_handler.callbacks.insert(0, callback)


def autocast(trainer: Any) -> Any:
    """The context in which the trainer's batches go through the model."""
    return trainer.accelerator.autocast()


def attention_of(causal: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions by which a model attends, and makes its masks."""
    from transformers import AttentionInterface, AttentionMaskInterface

    had = causal.config._attn_implementation
    eager = getattr(sys.modules[type(causal).__module__], "eager_attention_forward", None)
    return AttentionInterface().get_interface(had, eager), AttentionMaskInterface()[had]


def replace_rotary_positions(causal: Any, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Have the modelling files of a model turn queries and keys by what `replacement` makes of their own function.

    For all models of the family in this process, and for good.
    """
    for name in {type(module).__module__ for module in causal.modules()}:
        modeling = sys.modules[name]
        if name.startswith("transformers.models.") and hasattr(modeling, "apply_rotary_pos_emb"):
            modeling.apply_rotary_pos_emb = replacement(modeling.apply_rotary_pos_emb)  # type: ignore[attr-defined]


def _calls(name: str) -> Callable[[Any], bool]:
    """Whether the trainer's own code calls its method of that name."""

    def called(_: Any) -> bool:
        from transformers import Trainer

        methods = [inspect.unwrap(one) for one in vars(Trainer).values() if inspect.isfunction(one)]
        return any(name in method.__code__.co_names for method in methods)

    return called


def _looked_up_late(family: str) -> Callable[[Any], bool]:
    """Whether the attention of a family's modelling file asks for its rotation by name, when it is called."""

    def late(_: Any) -> bool:
        modeling = sys.modules[f"transformers.models.{family}.modeling_{family}"]
        attention = next(found for name, found in vars(modeling).items() if name.endswith("Attention"))
        return "apply_rotary_pos_emb" in attention.forward.__code__.co_names

    return late


RESUME = (
    Name(
        "transformers.Trainer._load_from_checkpoint",
        "resume would look for weights that are not there, or read pickles",
        holds=_calls("_load_from_checkpoint"),
    ),
    Name(
        "transformers.Trainer._load_optimizer_and_scheduler",
        "resume would begin with a fresh optimizer and another learning rate",
        holds=_calls("_load_optimizer_and_scheduler"),
    ),
    Name(
        "transformers.Trainer._load_scaler",
        "resume would look for a scaler that is not there",
        holds=_calls("_load_scaler"),
    ),
    Name(
        "transformers.Trainer._load_rng_state",
        "resume would begin with fresh random numbers",
        holds=_calls("_load_rng_state"),
    ),
)
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
RELIES_ON: tuple[Name, ...] = (
    *RESUME,
    OfTrainer(
        "transformers.Trainer._tr_loss",
        "a resumed run would log another loss, and a step that is not finite would spoil all later points",
        holds=lambda trainer: trainer._tr_loss.ndim == 0 and trainer._tr_loss.is_floating_point(),
    ),
    OfTrainer(
        "transformers.Trainer._globalstep_last_logged",
        "a resumed run would log another loss",
        holds=lambda trainer: trainer._globalstep_last_logged == trainer.state.global_step,
    ),
    Name(
        "transformers.Trainer._get_num_items_in_batch",
        "the trial of the longest batch could not be made as a step is",
        takes=("batch_samples", "device"),
    ),
    OfTrainer(
        "transformers.Trainer.current_gradient_accumulation_steps",
        "the trial of the longest batch would divide its loss by another number than a step",
        holds=lambda trainer: trainer.current_gradient_accumulation_steps == 1,
    ),
    OfTrainer(
        "transformers.Trainer.callback_handler",
        "no callback could be put before the others: resume and the trial at the beginning depend on the order",
        holds=lambda trainer: isinstance(trainer.callback_handler.callbacks, list),
    ),
    OfTrainer(
        "transformers.Trainer.accelerator",
        "sample answers would be computed in other types than the training",
        holds=lambda trainer: callable(trainer.accelerator.autocast),
    ),
    OfTrainer(
        "transformers.PreTrainedConfig._attn_implementation",
        "the fast path could not tell which attention a model had",
        holds=lambda trainer: trainer.model.config._attn_implementation in ("eager", "sdpa"),
    ),
    Name(
        "transformers.AttentionInterface.get_interface",
        "the fast path could not leave answers to the model's own attention",
        takes=("attn_implementation", "default"),
    ),
    Name(
        "transformers.AttentionMaskInterface",
        "the fast path could not leave answers to the model's own masks",
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
                "the fast path would no longer turn queries and keys without copies, or not at all",
                ("q", "k", "cos", "sin"),
                _looked_up_late(family),
            ),
            (
                "eager_attention_forward",
                "the fast path could not leave answers to the model's own attention",
                ("module", "query", "key", "value", "attention_mask", "scaling"),
                None,
            ),
        )
    ),
)
