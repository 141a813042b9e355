"""Structure of a decoder block: which linear layers belong to attention and MLP, and where its norms are.

Derived from the names and sizes in the safetensors header and a few entries of the config; an unknown architecture is
treated as Llama-like, with the layers in its header.
"""

import functools
import re
from dataclasses import dataclass
from typing import Literal

from studio.memory.shapes import Linear, ModelShape

Norm = Literal["rms", "gemma", "layer"]


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder block. attention: q, k, v or the fused layer; mlp: gate and up, the fused layer, or a single one.

    before: whether norms precede attention and MLP; post: whether norms follow them; shared: one norm before both;
    parallel: attention and MLP read the same stream. turned: share of a head that is rotated.
    """

    attention: tuple[Linear, ...]
    out: Linear | None
    mlp: tuple[Linear, ...]
    down: Linear | None
    norm: Norm
    post: bool
    before: bool
    parallel: bool
    shared: bool
    head_norms: bool
    turned: float
    activation: str
    residual_dropout: float
    attention_dropout: float
    softcap: bool

    @property
    def gated(self) -> bool:
        return len(self.mlp) == 2 or (
            len(self.mlp) == 1 and self.down is not None and self.mlp[0].out_features == 2 * self.down.in_features
        )


def is_attention(linear: Linear) -> bool:
    """Whether a layer belongs to the attention of its block."""
    return re.search(r"attn|attention", linear.path) is not None


@functools.lru_cache(maxsize=128)
def block_of(shape: ModelShape) -> Block:
    """The first decoder block, which represents all of them."""
    linears = [linear for linear in shape.linears if linear.layer == 0 and "vision" not in linear.path]
    attention = [linear for linear in linears if is_attention(linear)]
    rest = [linear for linear in linears if linear not in attention]
    outputs = ("o_proj", "out_proj", "dense", "c_proj", "wo")
    out = next((linear for linear in attention if linear.module in outputs), None)
    order = {"q_proj": 0, "k_proj": 1, "v_proj": 2}
    inputs = sorted((linear for linear in attention if linear is not out), key=lambda item: order.get(item.module, 0))
    hidden = shape.hidden
    narrowing = (
        linear
        for linear in rest
        if linear.out_features == hidden and (linear.in_features != hidden or "down" in linear.module)
    )
    down = next(narrowing, None)
    wide = sorted((linear for linear in rest if linear is not down), key=lambda item: item.module.startswith("up"))
    config, kind = shape.config, shape.architecture
    names = [tensor.name for tensor in shape.tensors if len(tensor.shape) == 1 and re.search(r"\.0\.", tensor.name)]
    norms = [name for name in names if re.search(r"(norm|ln)[\w.]*\.weight$", name)]
    parallel = kind in ("phi", "cohere", "cohere2", "gptj")
    if kind in ("falcon", "gpt_neox"):
        parallel = bool(config.get("parallel_attn" if kind == "falcon" else "use_parallel_residual", True))
    of_stream = [name for name in norms if not re.search(r"(q|k)_(layer)?norm", name)]
    rotary = config.get("rotary_pct", config.get("partial_rotary_factor"))
    if rotary is None and isinstance(config.get("rope_parameters"), dict):
        rotary = config["rope_parameters"].get("partial_rotary_factor")
    if rotary is None:
        rotary = 0.25 if kind == "gpt_neox" else 1.0
    return Block(
        attention=tuple(inputs),
        out=out,
        mlp=tuple(wide),
        down=down,
        norm=_norm(shape),
        post=any("pre_feedforward" in name or "post_feedforward" in name for name in of_stream),
        before=any("input_layernorm" in name for name in of_stream) or len(of_stream) != 2 or kind == "gpt2",
        parallel=parallel,
        shared=parallel and len(of_stream) == 1,
        head_norms=any(re.search(r"(q|k)_(layer)?norm", name) for name in norms),
        turned=0.0 if kind in ("gpt2", "opt") else float(rotary),
        activation=str(config.get("hidden_act", config.get("activation_function", config.get("activation", "gelu")))),
        residual_dropout=_rate(shape, "resid_pdrop", "hidden_dropout", 0.1 if kind == "gpt2" else 0.0),
        attention_dropout=_rate(shape, "attn_pdrop", "attention_dropout", 0.1 if kind == "gpt2" else 0.0),
        softcap=bool(config.get("attn_logit_softcapping")) if kind == "gemma2" else False,
    )  # fmt: skip


def _norm(shape: ModelShape) -> Norm:
    if shape.architecture.startswith("gemma"):
        return "gemma"
    return "rms" if any("rms" in key for key in shape.config) or shape.architecture == "llama" else "layer"


def _rate(shape: ModelShape, first: str, second: str, default: float) -> float:
    value = shape.config.get(first, shape.config.get(second, default))
    return float(value) if isinstance(value, int | float) else default
