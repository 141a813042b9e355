"""Patch a transformers model with a LoRA adapter to use the fast functions, in place.

They are used in training and in evaluation of batches without padding. Other calls without gradients (sample answers
during training) use transformers and PEFT as usual. plan.py decides whether a model is supported; collator.py makes the
batches.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from studio.engine.compat.bitsandbytes import is_in_4_bits, unpacked
from studio.engine.compat.peft import (
    has_lora_bias,
    has_variant,
    is_4bit_lora_linear,
    is_lora_layer,
    is_whole_lora_linear,
)
from studio.engine.compat.torch import by_tensor
from studio.engine.compat.transformers import attention_of, replace_rotary_positions
from studio.engine.fast.layout import Rows
from studio.engine.fast.ops.attention import attend
from studio.engine.fast.ops.dropout import Pool
from studio.engine.fast.ops.lora import Frozen, Layer, Together
from studio.engine.fast.ops.norms import Gate, RmsNorm, Rotate, Source
from studio.engine.fast.ops.prepacked import Making
from studio.engine.fast.ops.torch_ops import Arithmetic

ATTENTION = "studio_rows"
ACTS = {"SiLUActivation": "silu", "SiLU": "silu", "GELUTanh": "gelu", "PytorchGELUTanh": "gelu"}
# Names, in every supported family, of a module's layers with the same input.
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# Layers whose sum the reference rounds next to its attention, although a 4-bit base keeps the rest in float32.
BESIDE_ATTENTION = ("v_proj", "o_proj")
Forward = Callable[..., Any]


class Batch:
    """State shared by the layers during the forward and backward pass of a batch."""

    def __init__(self, widest: int, by: Arithmetic) -> None:
        """widest: maximum input size of an adapted layer; by: operations other than matrix products."""
        self.widest, self.by = widest, by
        self.pools: dict[float, Pool] = {}
        self.rows: Rows | None = None  # of the current batch without padding
        self.asked: torch.Tensor | None = None  # its tokens whose last hidden state is read; None: all
        self._sources = by_tensor()

    @property
    def whole(self) -> bool:
        """Whether transformers and PEFT compute as usual. A backward pass may recompute a layer, so gradients count."""
        return not (self.rows or torch.is_grad_enabled())

    def made(self, answer: torch.Tensor, make: Callable[..., torch.Tensor], *kept: torch.Tensor) -> torch.Tensor:
        """Record how to recompute `answer` from tensors that a backward pass keeps anyway."""
        if answer.requires_grad:
            self._sources[answer] = Source(tuple(tensor.detach() for tensor in kept), make)
        return answer

    def source(self, x: torch.Tensor) -> Source | None:
        """How to recompute x, if recorded."""
        source: Source | None = self._sources.get(x)
        return source

    def pool(self, chance: float, x: torch.Tensor) -> Pool | None:
        """This batch's dropout decisions for one probability."""
        if not chance:
            return None
        if chance not in self.pools:
            self.pools[chance] = Pool(chance, x, x.shape[0] * self.widest)
        return self.pools[chance]


def speed_up(causal: Any, compute: torch.dtype, by: Arithmetic, weigh: Making) -> Batch:
    """Patch a causal language model (not PEFT's wrapper) and return the state shared by its layers.

    compute: dtype of the products; by: operations other than products; weigh: builds the weights. Clear the pools of
    the returned Batch only after the backward pass, because checkpointed layers are recomputed from them.
    """
    plain = [module for module in causal.modules() if is_plain_lora(module)]
    batch = Batch(max((module.in_features for module in plain), default=0), by)
    _attend_by_rows(causal, batch)
    last, done = causal.base_model.layers[-1], {module.base_layer for module in plain}
    for modules in _with_the_same_input(causal):
        _put_together(modules, batch, compute, weigh)
    for module in list(causal.base_model.modules()):
        if is_rms_norm(module):
            module.forward = _norm(module, batch, compute)
        elif is_plain_linear(module) and module not in done:
            module.forward = _frozen(module, batch, compute, weigh)
        elif gate_of(module):
            module.forward = _gated(module, batch)
    for module in (last.self_attn.o_proj, last.mlp):
        module.forward = _where_asked(module, batch)
    replace_rotary_positions(causal, functools.partial(_rotary, batch))
    return batch


# --- supported modules


def is_plain_lora(module: Any) -> bool:
    """Whether it is a linear layer with exactly one plain adapter, on unquantised or 4-bit weights."""
    if not is_lora_layer(module) or len(module.lora_A) != 1 or len(module.active_adapters) != 1:
        return False
    whole = is_whole_lora_linear(module) and type(module.base_layer) is nn.Linear
    return (whole or _in_4_bits(module)) and not has_variant(module) and not has_lora_bias(module)


def is_plain_linear(module: Any) -> bool:
    """Whether it is a frozen linear layer without an adapter, on unquantised or 4-bit weights."""
    known = type(module) is nn.Linear or (isinstance(module, nn.Linear) and is_in_4_bits(module.weight))
    return known and not module.weight.requires_grad


def is_rms_norm(module: Any) -> bool:
    """Whether it is an RMSNorm, of llama's or Gemma's kind."""
    name = type(module).__name__
    return name.endswith("RMSNorm") and isinstance(getattr(module, "weight", None), nn.Parameter)


def gate_of(module: Any) -> str:
    """Return the activation of a gated feed-forward layer, as used by Gate; empty for other modules."""
    known = hasattr(module, "down_proj") and (
        hasattr(module, "gate_up_proj") or (hasattr(module, "gate_proj") and hasattr(module, "up_proj"))
    )
    act = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    return ACTS.get(type(act).__name__, "") if known else ""


def _in_4_bits(module: Any) -> bool:
    return is_4bit_lora_linear(module) and is_in_4_bits(module.base_layer.weight)


# --- replacements


def _with_the_same_input(causal: Any) -> Iterator[dict[str, Any]]:
    """Yield the adapted linear layers by name, grouped if they have the same input."""
    for parent in causal.modules():
        own = {name: module for name, module in parent.named_children() if is_plain_lora(module)}
        for names in SAME_INPUT:
            group = {name: own.pop(name) for name in names if name in own}
            if len({_chance(module) for module in group.values()}) == 1:
                yield group
            else:
                yield from ({name: module} for name, module in group.items())
        yield from ({name: module} for name, module in own.items())


def _put_together(modules: dict[str, Any], batch: Batch, compute: torch.dtype, weigh: Making) -> None:
    layers = tuple(_layer(name, module, compute, weigh) for name, module in modules.items())
    together = Together(layers, _chance(next(iter(modules.values()))))
    for number, module in enumerate(modules.values()):
        module.forward = _lora(module, together, number, batch, compute)


def _layer(name: str, module: Any, compute: torch.dtype, weigh: Making) -> Layer:
    base, packed = module.base_layer, _in_4_bits(module)
    (adapter,) = module.lora_A.keys()
    weight = weigh(_weight(base, compute))
    down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    once = packed and name not in BESIDE_ATTENTION
    return Layer(weight, base.bias, down, up, float(module.scaling[adapter]), once)


def _chance(module: Any) -> float:
    return float(getattr(next(iter(module.lora_dropout.values())), "p", 0.0))


def _lora(module: Any, together: Together, number: int, batch: Batch, compute: torch.dtype) -> Forward:
    usual = module.forward

    def forward(x: Any, *args: Any, **more: Any) -> Any:
        if batch.whole or module.disable_adapters or module.merged:
            return usual(x, *args, **more)
        return together.answer(number, x, batch.source(x), compute, batch.pool, module.training)

    return forward


def _frozen(module: Any, batch: Batch, compute: torch.dtype, weigh: Making) -> Forward:
    """Forward of a frozen layer without an adapter."""
    usual, weight = module.forward, weigh(_weight(module, compute))

    def forward(x: Any) -> Any:
        return usual(x) if batch.whole else Frozen.apply(x.to(compute), weight, module.bias)

    return forward


def _weight(base: Any, compute: torch.dtype) -> Callable[[], torch.Tensor]:
    """Return a function for the layer's weight in dtype `compute`; the allocator reuses its temporary memory."""
    if is_in_4_bits(base.weight):
        return lambda: unpacked(base.weight, compute)
    return lambda: base.weight.to(compute)


def _norm(module: Any, batch: Batch, compute: torch.dtype) -> Forward:
    usual = module.forward
    gemma = hasattr(module, "eps")  # other norms name it variance_epsilon

    def forward(x: Any) -> Any:
        if batch.whole or module.weight.requires_grad:
            return usual(x)
        weight = module.weight.float() + 1.0 if gemma else module.weight
        eps = module.eps if gemma else module.variance_epsilon
        flat = x.reshape(-1, x.shape[-1])
        answer, scales = RmsNorm.apply(flat, weight, eps, compute, batch.by)
        # If x needs no gradient, nothing else keeps it, and the output may be the smaller of the two.
        return batch.made(answer.view(x.shape), functools.partial(batch.by.normed, dtype=compute), flat, weight, scales)

    return forward


def _gated(module: Any, batch: Batch) -> Forward:
    usual, act = module.forward, gate_of(module)
    both = hasattr(module, "gate_up_proj")

    def forward(x: Any) -> Any:
        if batch.whole:
            return usual(x)
        outputs = [module.gate_up_proj(x)] if both else [module.gate_proj(x), module.up_proj(x)]
        flat = [output.flatten(0, -2) for output in outputs]
        gate, up = flat[0].chunk(2, -1) if both else flat
        product = batch.made(Gate.apply(gate, up, act, batch.by), functools.partial(batch.by.gated, act=act), gate, up)
        return module.down_proj(product).view(x.shape)

    return forward


def _where_asked(module: Any, batch: Batch) -> Forward:
    """Forward of a module of the last layer for the read tokens only; 0 for all others.

    After it, no token attends to another.
    """
    usual = module.forward

    def forward(x: Any) -> Any:
        if batch.whole or batch.asked is None:
            return usual(x)
        read = usual(x.index_select(1, batch.asked))
        return read.new_zeros(1, x.shape[1], read.shape[2]).index_copy(1, batch.asked, read)

    return forward


def _rotary(batch: Batch, usual: Forward) -> Forward:
    """Replace a modelling file's rotary positions for one row of tokens if they are llama's."""

    def rotated(q: Any, k: Any, cos: Any, sin: Any, *args: Any, **more: Any) -> Any:
        if args or more or batch.whole or q.shape[0] != 1 or cos.shape[-1] != q.shape[-1]:
            return usual(q, k, cos, sin, *args, **more)
        angles = cos[0].to(q.dtype), sin[0].to(q.dtype)
        return tuple(Rotate.apply(tensor.squeeze(0).transpose(0, 1), *angles, batch.by)[None] for tensor in (q, k))

    return rotated


def _attend_by_rows(causal: Any, batch: Batch) -> None:
    """Use our attention for batches with `seq_lengths`, and the model's own for others."""
    from transformers import AttentionInterface, AttentionMaskInterface

    usual, usual_mask = attention_of(causal)

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, *args: Any, **more: Any) -> Any:
        rows = more.pop("rows", None)
        if rows is None:
            return usual(module, query, key, value, mask, *args, **more)
        # squeeze(), because the gradient of [0] is a copy into zeros.
        query, key, value = (tensor.squeeze(0) for tensor in (query, key, value))
        output = attend(query, key, value, rows, float(more["scaling"]), more.get("sliding_window"), batch.by)
        return output[None], None

    def mask(*args: Any, **more: Any) -> Any:
        return None if batch.rows else usual_mask(*args, **more)

    def begin(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        names = ("seq_lengths", "seq_asked", "seq_read", "seq_prefixes")
        whole, asked, *parts = (kwargs.pop(name, None) for name in names)
        batch.pools.clear()
        batch.asked = asked
        if whole is not None:
            read, prefixes = (None if part is None else part.tolist() for part in parts)
            batch.rows = Rows(read or whole.tolist(), prefixes or [], whole.tolist(), not whole.is_cuda)
            kwargs |= {"rows": batch.rows, "attention_mask": None}
            if batch.rows.spare:
                computed = batch.rows.computed(kwargs["input_ids"])
                batch.asked = asked if asked is None else batch.rows.places(asked)[asked].unique()
                kwargs |= {name: kwargs[name].index_select(1, computed) for name in ("input_ids", "position_ids")}
        return args, kwargs

    def end(_module: Any, _args: Any, output: Any) -> Any:
        rows, batch.rows = batch.rows, None
        if rows is not None and rows.spare and output is not None:
            hidden = output.last_hidden_state
            output.last_hidden_state = hidden.index_select(1, rows.places(hidden))
        return output

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, mask)
    causal.set_attn_implementation(ATTENTION)
    causal.base_model.register_forward_pre_hook(begin, with_kwargs=True)
    causal.base_model.register_forward_hook(end, always_call=True)
