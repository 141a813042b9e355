"""Decide whether a run uses the fast path, and give the reason."""

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
    """fast: whether to use the fast path; why: a readable reason."""

    fast: bool
    why: str

    @property
    def engine(self) -> str:
        return "fast" if self.fast else "trl"


def choose(recipe: Recipe, causal: Any, cuda: bool, examples: Sequence[Example] = ()) -> Choice:
    """Choose the engine for a recipe and a loaded model without its adapter; examples: the training set."""
    config = causal.config.get_text_config()
    reason = why_not(recipe, config.to_dict(), cuda) or _unsupported_layers(causal)
    if reason:
        return Choice(False, reason)
    dtype = recipe.model.dtype
    product_type = products(dtype, cuda, cpu.multiplies_bf16())
    more = ""
    if product_type != dtype:
        more = f" This processor has no {dtype} arithmetic: products are in float32."
    if cuda:
        more += _on_a_gpu()
    else:
        compute = getattr(torch, product_type)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        more += _other_operations(compute, head_dim) + _shared_prefix(recipe, examples)
    return Choice(True, f"LoRA on a model of the {config.model_type} family.{more}")


def _other_operations(compute: torch.dtype, head_dim: int) -> str:
    by, not_compiled = kernels()
    if not isinstance(by, Kernels):
        return f" Attention, norms and gates use torch ({not_compiled}), which makes a step a fifth slower."
    compiled = "Attention, norms and gates" if by.attends_in(compute, head_dim) else "Norms and gates, not attention,"
    return f" {compiled} are compiled for this processor."


def _on_a_gpu() -> str:
    by, not_there = liger()
    return (
        " Norms, gates and the loss use Liger."
        if isinstance(by, Liger)
        else f" Norms, gates and the loss use torch ({not_there})."
    )


def _shared_prefix(recipe: Recipe, examples: Sequence[Example]) -> str:
    together = recipe.schedule.packing or recipe.schedule.per_device_train_batch_size > 1
    tokens = common_prefix([example.input_ids for example in examples]) if together else 0
    return (
        f" The first {tokens} tokens are the same in every example and are computed once per batch." if tokens else ""
    )


def _unsupported_layers(causal: Any) -> str:
    """Return why the layers are not supported; empty if they are. A model can differ from its family."""
    head = causal.get_output_embeddings()
    if getattr(head, "bias", None) is not None or not any(gate_of(module) for module in causal.modules()):
        return "The fast path does not support the layers of this model."
    return ""
