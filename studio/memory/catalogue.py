"""Bundled shapes of known models by hub id, for estimates without a download.

`data/catalogue.json` contains the entries of each published config.json that determine sizes, and the published number
of parameters; the tensors follow from one rule per family. A test compares them with transformers' models.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

from studio import resources
from studio.errors import NotFound
from studio.memory.shapes import ModelShape, Tensor

_Named = Iterator[tuple[str, tuple[int, ...]]]


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads((resources.data() / "catalogue.json").read_text(encoding="utf-8"))
    return entries


def names() -> list[str]:
    """Hub ids of the known models."""
    return list(_entries())


def published(hub_id: str) -> int:
    """The number of parameters stated by the model's authors."""
    return int(_entries()[_known(hub_id)]["parameters"])


def shape(hub_id: str) -> ModelShape:
    """The shape of a known model; raises NotFound that lists some known models."""
    return _shape(_known(hub_id))


def _known(hub_id: str) -> str:
    """Resolve a hub id, ignoring case; the owner may be left out."""
    wanted = hub_id.lower()
    for name in _entries():
        if wanted in (name.lower(), name.lower().partition("/")[2]):
            return name
    raise NotFound(
        f"There is no {hub_id!r} among the {len(_entries())} known models, such as {', '.join(names()[:3])}."
    )


@functools.cache
def _shape(name: str) -> ModelShape:
    config = _entries()[name]["config"]
    return ModelShape(name, config, [Tensor(tensor, size, "BF16") for tensor, size in tensors(config)])


def tensors(config: dict[str, Any]) -> _Named:
    """Yield names and shapes of a model's tensors as in its safetensors file, without a tied head."""
    kind = config["model_type"]
    rule = {"gpt2": _gpt2, "gpt_neox": _neox, "falcon": _falcon}.get(kind, _llama)
    yield from rule(config)


def _llama(config: dict[str, Any]) -> _Named:
    """Llama-like models: separate projections, gated MLP, RMS norms; Phi-3 fuses, Gemma 3 and Qwen3 add norms."""
    kind, hidden, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim", hidden // heads)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        if kind == "phi3":
            yield f"{at}.self_attn.qkv_proj.weight", ((heads + 2 * groups) * size, hidden)
            yield f"{at}.mlp.gate_up_proj.weight", (2 * inner, hidden)
        else:
            yield f"{at}.self_attn.q_proj.weight", (heads * size, hidden)
            yield f"{at}.self_attn.k_proj.weight", (groups * size, hidden)
            yield f"{at}.self_attn.v_proj.weight", (groups * size, hidden)
            yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
            yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield f"{at}.self_attn.o_proj.weight", (hidden, heads * size)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind.startswith("gemma"):
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for norm in norms:
            yield f"{at}.{norm}.weight", (hidden,)
        if kind.startswith(("gemma3", "qwen3")):
            yield f"{at}.self_attn.q_norm.weight", (size,)
            yield f"{at}.self_attn.k_norm.weight", (size,)


def _gpt2(config: dict[str, Any]) -> _Named:
    """GPT-2: learned positions, fused attention, Conv1D weights (transposed), biases everywhere."""
    hidden = config["n_embd"]
    yield "wte.weight", (config["vocab_size"], hidden)
    yield "wpe.weight", (config["n_positions"], hidden)
    yield from _both("ln_f", (hidden,), hidden)
    for layer in range(config["n_layer"]):
        at = f"h.{layer}"
        yield from _both(f"{at}.ln_1", (hidden,), hidden)
        yield from _both(f"{at}.ln_2", (hidden,), hidden)
        yield from _both(f"{at}.attn.c_attn", (hidden, 3 * hidden), 3 * hidden)
        yield from _both(f"{at}.attn.c_proj", (hidden, hidden), hidden)
        yield from _both(f"{at}.mlp.c_fc", (hidden, 4 * hidden), 4 * hidden)
        yield from _both(f"{at}.mlp.c_proj", (4 * hidden, hidden), hidden)


def _neox(config: dict[str, Any]) -> _Named:
    """GPT-NeoX and Pythia: fused attention, plain MLP, biases, an untied head."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    yield "gpt_neox.embed_in.weight", (config["vocab_size"], hidden)
    yield from _both("gpt_neox.final_layer_norm", (hidden,), hidden)
    yield "embed_out.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{layer}"
        yield from _both(f"{at}.input_layernorm", (hidden,), hidden)
        yield from _both(f"{at}.post_attention_layernorm", (hidden,), hidden)
        yield from _both(f"{at}.attention.query_key_value", (3 * hidden, hidden), 3 * hidden)
        yield from _both(f"{at}.attention.dense", (hidden, hidden), hidden)
        yield from _both(f"{at}.mlp.dense_h_to_4h", (inner, hidden), inner)
        yield from _both(f"{at}.mlp.dense_4h_to_h", (hidden, inner), hidden)


def _falcon(config: dict[str, Any]) -> _Named:
    """Falcon 7B: one key and value head, attention and MLP in parallel after one norm, no biases in the layers."""
    hidden = config["hidden_size"]
    size = hidden // config["num_attention_heads"]
    yield "transformer.word_embeddings.weight", (config["vocab_size"], hidden)
    yield from _both("transformer.ln_f", (hidden,), hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"transformer.h.{layer}"
        yield from _both(f"{at}.input_layernorm", (hidden,), hidden)
        yield f"{at}.self_attention.query_key_value.weight", (hidden + 2 * size, hidden)
        yield f"{at}.self_attention.dense.weight", (hidden, hidden)
        yield f"{at}.mlp.dense_h_to_4h.weight", (4 * hidden, hidden)
        yield f"{at}.mlp.dense_4h_to_h.weight", (hidden, 4 * hidden)


def _both(name: str, weight: tuple[int, ...], bias: int) -> _Named:
    yield f"{name}.weight", weight
    yield f"{name}.bias", (bias,)
