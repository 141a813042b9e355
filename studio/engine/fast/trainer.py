"""Switch TRL's trainer to the fast path."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from studio.engine.compat.torch import can_lay_out
from studio.engine.fast.collator import RowCollator
from studio.engine.fast.kernels import kernels
from studio.engine.fast.ops.liger import liger
from studio.engine.fast.ops.lm_head import score_trained_positions
from studio.engine.fast.ops.prepacked import Prepacked, PrepackedBothWays, Weight
from studio.engine.fast.patch import is_plain_linear, speed_up
from studio.machine import cpu
from studio.machine import facts as machine_facts
from studio.recipe import Recipe
from studio.recipe.fast_path import laid_out, products


def take_over(trainer: Any, causal: Any, recipe: Recipe) -> None:
    """Have `trainer` use the fast path's batches and losses. `causal`: its model without PEFT's wrapper."""
    cuda = causal.device.type == "cuda"
    dtype = products(recipe.model.dtype, cuda, cpu.multiplies_bf16())
    compute: torch.dtype = getattr(torch, dtype)
    by = (liger() if cuda else kernels())[0]
    kind, weights = weights_of(causal, recipe), list[Weight]()

    def weigh(make: Callable[[], torch.Tensor]) -> Weight:
        weights.append(kind(make))
        return weights[-1]

    batch = speed_up(causal, compute, by, weigh)
    score_trained_positions(causal, compute, by, weigh)
    trainer.data_collator = RowCollator(trainer.data_collator, spares=not cuda)
    step = trainer.training_step

    def training_step(*args: Any, **options: Any) -> Any:
        try:
            loss = step(*args, **options)
        finally:
            batch.pools.clear()
        # After the first step: it starts half a second sooner, and none of its tensors are in memory between them.
        while weights:
            weights.pop().lay_out()
        return loss

    # The fast functions choose their own dtypes; autocast would copy tensors that are right already.
    trainer.compute_loss_context_manager = contextlib.nullcontext
    trainer.training_step = training_step


def weights_of(causal: Any, recipe: Recipe) -> type[Weight]:
    """Return the class of the model's frozen weights for products on this machine."""
    frozen = {id(module.weight): module.weight.numel() for module in causal.modules() if is_plain_linear(module)}
    cuda, here = causal.device.type == "cuda", machine_facts.found_by_training()
    if not can_lay_out() or not laid_out(recipe, sum(frozen.values()), cuda, here):
        return Weight
    return Prepacked if recipe.model.dtype == "float32" else PrepackedBothWays
