"""The memory estimate: peak bytes on the training device, itemised, from shapes and a recipe alone.

All terms are bytes at the moment of the peak, which is the backward pass. Sources, term by term:

weights        stored bytes; NF4: 4 bits a parameter of every decoder linear layer plus the scales: one fp32 for 64
               parameters, or with double quantization 8 bits for 64 and one fp32 for 256 of those (Dettmers et al.
               2023, section 3). What NF4 leaves alone (embeddings, norms, head) PEFT's
               prepare_model_for_kbit_training casts to fp32.
adapter        r * (in + out) for every adapted layer (Hu et al. 2021, section 4.1); fp32 over a 16-bit base (PEFT's
               autocast_adapter_dtype), bf16 over NF4 (TRL follows the QLoRA paper there).
gradients      as the adapter. Nothing frozen has any.
optimizer      AdamW: two moments in the adapter's type; the 8-bit kinds: two bytes a parameter.
activations    what autograd keeps for a token in each layer (see _per_layer), all layers at once, or with
               checkpointing the input of every layer plus one layer in full.
logits         TRL computes them in chunks (`add_fused_lm_head`), so a chunk of tokens times the vocabulary.
workspace      NF4: one layer's weights dequantised to 16 bits.
runtime        the libraries' own: the CUDA context, or the Python process on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from studio.memory.shapes import Linear, ModelShape
from studio.recipe import Recipe

GIB = 2**30
# The CUDA context with cuBLAS workspaces, and a Python process with torch, transformers and TRL in it.
# CPU: resident memory of the worker before the model is loaded, measured 2026-11 (torch 2.13): 0.6 GiB.
_RUNTIME = {"cuda": int(0.5 * GIB), "cpu": int(0.6 * GIB)}
# TRL's fused head works on chunks of this many tokens (trl 1.16, add_fused_lm_head).
_HEAD_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Item:
    """One part of the estimate."""

    key: str
    label: str
    bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """The whole estimate: items in bytes and exact parameter counts."""

    items: list[Item]
    trainable: int
    parameters: int

    @property
    def total(self) -> int:
        return sum(item.bytes for item in self.items)


def adapted(shape: ModelShape, recipe: Recipe) -> list[Linear]:
    """The linear layers that the recipe adapts."""
    targets = recipe.method.target_modules
    if targets == "all-linear":
        return shape.linears
    return [linear for linear in shape.linears if linear.module in targets]


def trainable_parameters(shape: ModelShape, recipe: Recipe) -> int:
    """Parameters of the LoRA adapter, exactly as PEFT counts them."""
    r = recipe.method.r
    return sum(r * (linear.in_features + linear.out_features) for linear in adapted(shape, recipe))


def footprint(shape: ModelShape, recipe: Recipe, device: str, length: int | None = None) -> Footprint:
    """Itemised peak memory of training `shape` by `recipe` on `device` ("cuda" or "cpu").

    length: tokens of the longest example if it is known and shorter than max_length.
    """
    nf4 = recipe.quantization.quantization == "nf4"
    width = 4 if recipe.model.dtype == "float32" else 2
    tokens = recipe.schedule.per_device_train_batch_size * min(length or recipe.data.max_length, recipe.data.max_length)
    trainable = trainable_parameters(shape, recipe)
    adapter_width = 2 if nf4 else 4
    items = [
        _weights(shape, recipe, nf4, width),
        Item("adapter", "Adapter", trainable * adapter_width, f"{trainable:,} parameters in {adapter_width * 8} bits"),
        Item("gradients", "Gradients", trainable * adapter_width, "of the adapter only: nothing frozen has any"),
        _optimizer(recipe, trainable, adapter_width, device),
        _activations(shape, recipe, tokens, width),
        _logits(shape, tokens),
    ]
    if nf4:
        largest = max((linear.elements for linear in shape.linears), default=0)
        items.append(Item("workspace", "Dequantised layer", largest * width, "the layer at work, in 16 bits"))
    what = "CUDA context and libraries" if device == "cuda" else "Python, PyTorch and libraries"
    items.append(Item("runtime", "Runtime", _RUNTIME["cuda" if device == "cuda" else "cpu"], what))
    return Footprint(items, trainable, shape.parameters)


def nf4_bytes(elements: int, double_quant: bool) -> int:
    """Bytes of a weight in NF4 with its scales: 4.127 bits a parameter with double quantization, 4.5 without."""
    blocks = -(-elements // 64)
    scales = blocks + 4 * -(-blocks // 256) if double_quant else 4 * blocks
    return elements // 2 + scales


def _weights(shape: ModelShape, recipe: Recipe, nf4: bool, width: int) -> Item:
    if not nf4:
        return Item(
            "weights", "Base weights", shape.parameters * width, f"{shape.parameters:,} parameters in {width * 8} bits"
        )
    double = recipe.quantization.bnb_4bit_use_double_quant
    quantized = sum(nf4_bytes(linear.elements, double) for linear in shape.linears)
    rest = shape.parameters - sum(linear.elements for linear in shape.linears)
    return Item(
        "weights",
        "Base weights",
        quantized + 4 * rest,
        f"{quantized / GIB:.2f} GiB in NF4, {4 * rest / GIB:.2f} GiB (embeddings, norms) in 32 bits",
    )


def _optimizer(recipe: Recipe, trainable: int, adapter_width: int, device: str) -> Item:
    eight_bit = recipe.optimizer.optim != "adamw_torch" and device == "cuda"
    each = 1 if eight_bit else adapter_width
    return Item("optimizer", "Optimizer", 2 * trainable * each, f"AdamW's two moments in {each * 8} bits")


def _per_layer(shape: ModelShape, targets: Sequence[Linear], width: int, dropout: float) -> float:
    """Bytes autograd keeps for one token in one decoder layer.

    Norms and the residual stream keep their input once in the compute type and once in fp32; the attention keeps
    q, k, v and its output; a gated MLP keeps gate, up, their activation and product. Each adapted layer keeps its
    input for A (a copy, and a mask, where dropout changes it) and the r numbers between A and B.
    """
    hidden, inner = shape.hidden, shape.intermediate
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    gated = any(linear.module in ("gate_proj", "gate_up_proj") for linear in shape.linears)
    norms = 2 * hidden * (width + 8)
    mlp = inner * (4 if gated else 2) * width
    kept: float = norms + (attention + 2 * hidden) * width + mlp + attention * width
    if dropout > 0:
        layers = max(1, shape.layers)
        kept += sum(linear.in_features for linear in targets) / layers * (width + 1)
    return kept


def _activations(shape: ModelShape, recipe: Recipe, tokens: int, width: int) -> Item:
    targets = adapted(shape, recipe)
    per_layer = _per_layer(shape, targets, width, recipe.method.lora_dropout)
    between = sum(recipe.method.r * 4 for _ in targets) / max(1, shape.layers)
    if recipe.schedule.gradient_checkpointing:
        kept = tokens * (shape.layers * shape.hidden * width + per_layer + between)
        note = f"{tokens:,} tokens, recomputed layer by layer"
    else:
        kept = tokens * shape.layers * (per_layer + between)
        note = f"{tokens:,} tokens in {shape.layers} layers"
    return Item("activations", "Activations", int(kept), note)


def _logits(shape: ModelShape, tokens: int) -> Item:
    chunk = min(tokens, _HEAD_CHUNK)
    bytes_ = chunk * shape.vocabulary * 4 * 3 + tokens * shape.hidden * 8
    return Item("logits", "Logits and loss", bytes_, f"{chunk} tokens at a time over {shape.vocabulary:,} words")
