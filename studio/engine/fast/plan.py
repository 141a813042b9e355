"""Whether a run takes the fast path, and why not if it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from studio.dataset.tokens.encode import Example
from studio.engine.fast.kernels import Kernels, kernels
from studio.engine.fast.ops.liger import Liger, liger
from studio.engine.fast.patch import gate_of
from studio.engine.fast.prefixes import common_prefix
from studio.machine import cpu
from studio.recipe import Recipe
from studio.recipe.fast_path import products, why_not


@dataclass(frozen=True, slots=True)
class Choice:
    """fast: whether to take the fast path; why: one sentence for a person."""

    fast: bool
    why: str

    @property
    def engine(self) -> str:
        return "fast" if self.fast else "trl"


def choose(recipe: Recipe, causal: Any, cuda: bool, examples: Sequence[Example] = ()) -> Choice:
    """The engine for a recipe and a loaded model, before its adapter is on it; examples: what it is to learn from."""
    config = causal.config.get_text_config()
    reason = why_not(recipe, config.to_dict(), cuda) or _against_layers(causal)
    if reason:
        return Choice(False, reason)
    held = recipe.model.dtype
    wide = products(held, cuda, cpu.multiplies_bf16()) != held
    more = f" This processor has no {held} arithmetic: products are in float32." if wide else ""
    if cuda:
        more += _on_a_gpu()
    else:
        compute = getattr(torch, products(held, cuda, cpu.multiplies_bf16()))
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        more += _beside_products(compute, head_dim) + _begun_alike(recipe, examples)
    return Choice(True, f"LoRA on a model of the {config.model_type} family.{more}")


def _beside_products(compute: torch.dtype, head_dim: int) -> str:
    by, not_compiled = kernels()
    if not isinstance(by, Kernels):
        return f" Attention, norms and gates are torch's ({not_compiled}), which makes a step a fifth slower."
    compiled = "Attention, norms and gates" if by.attends_in(compute, head_dim) else "Norms and gates, not attention,"
    return f" {compiled} are compiled for this processor."


def _on_a_gpu() -> str:
    by, not_there = liger()
    return (
        " Norms, gates and the loss are Liger's."
        if isinstance(by, Liger)
        else f" Norms, gates and the loss are torch's ({not_there})."
    )


def _begun_alike(recipe: Recipe, examples: Sequence[Example]) -> str:
    together = recipe.schedule.packing or recipe.schedule.per_device_train_batch_size > 1
    tokens = common_prefix([example.input_ids for example in examples]) if together else 0
    return f" The first {tokens} tokens, the same in every example, are computed once a batch." if tokens else ""


def _against_layers(causal: Any) -> str:
    """A model that calls itself one of a family and is made otherwise."""
    head = causal.get_output_embeddings()
    if getattr(head, "bias", None) is not None or not any(gate_of(module) for module in causal.modules()):
        return "The layers of this model are not those that the fast path knows."
    return ""
