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
               Plain attention on a CPU keeps its matrices too.
logits         TRL's fused head (trl 1.16, `kernels/chunked_logprob.py`) takes up to 4096 trained positions times
               32768 words at once; without Triton it holds five fp32 copies of that tile beside it.
workspace      NF4: one layer's weights dequantised to 16 bits.
runtime        the libraries' own: the CUDA context, or the Python process on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from studio.memory.shapes import Linear, ModelShape
from studio.recipe import PLAIN_ATTENTION_TOKENS, Recipe

GIB = 2**30
# The CUDA context with cuBLAS workspaces, and a Python process with torch, transformers and TRL in it.
# CPU: resident memory of the worker before the model is loaded, measured 2026-11 (torch 2.13): 0.6 GiB.
_RUNTIME = {"cuda": int(0.5 * GIB), "cpu": int(0.6 * GIB)}
# The tile of TRL's fused head: TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE.
_HEAD_TOKENS, _HEAD_WORDS = 4096, 32768


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


def footprint(
    shape: ModelShape, recipe: Recipe, device: str, length: int | None = None, trained_share: float = 1.0
) -> Footprint:
    """Itemised peak memory of training `shape` by `recipe` on `device` ("cuda" or "cpu").

    length: tokens of the longest example if it is known and shorter than max_length. trained_share: share of the
    tokens that count in the loss.
    """
    nf4 = recipe.quantization.quantization == "nf4"
    width = 4 if recipe.model.dtype == "float32" else 2
    batch = recipe.schedule.per_device_train_batch_size
    length = min(length or recipe.data.max_length, recipe.data.max_length)
    trainable = trainable_parameters(shape, recipe)
    adapter_width = 2 if nf4 else 4
    items = [
        _weights(shape, recipe, nf4, width),
        Item("adapter", "Adapter", trainable * adapter_width, f"{trainable:,} parameters in {adapter_width * 8} bits"),
        Item("gradients", "Gradients", trainable * adapter_width, "of the adapter only: nothing frozen has any"),
        _optimizer(recipe, trainable, adapter_width, device),
        _activations(shape, recipe, batch, length, device),
        _logits(shape, int(batch * length * trained_share), width, device),
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


def _per_layer(shape: ModelShape, recipe: Recipe, targets: Sequence[Linear]) -> float:
    """Bytes autograd keeps for one token in one decoder layer.

    A norm keeps its input and its result, in 16 bits with fp32 copies between; the attention keeps q, k, v and its
    output; a gated MLP keeps gate, up, their activation and product. Each adapted layer keeps the r numbers between A
    and B, and where dropout changes its input, that input and the mask. Over NF4 the residual stream is fp32, as PEFT
    leaves the norms, and each layer's input is kept again in 16 bits. Checked against measured peaks
    (benchmarks/RESULTS.md).
    """
    hidden, width = shape.hidden, 4 if recipe.model.dtype == "float32" else 2
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    gated = any(linear.module in ("gate_proj", "gate_up_proj") for linear in shape.linears)
    kept: float = 2 * hidden * (width + (8 if width == 2 else 4))
    kept += (attention + 2 * hidden) * width + shape.intermediate * (4 if gated else 2) * width
    if recipe.quantization.quantization == "nf4":
        kept += 14 * hidden
    layers = max(1, shape.layers)
    if recipe.method.lora_dropout > 0:
        kept += sum(linear.in_features for linear in targets) / layers * 2 * width
    return kept + recipe.method.r * 4 * len(targets) / layers


def _activations(shape: ModelShape, recipe: Recipe, batch: int, length: int, device: str) -> Item:
    tokens = batch * length
    layer = tokens * _per_layer(shape, recipe, adapted(shape, recipe))
    if device == "cpu" and length <= PLAIN_ATTENTION_TOKENS:
        layer += 6 * batch * shape.heads * length**2
    if recipe.schedule.gradient_checkpointing:
        width = 4 if recipe.model.dtype == "float32" else 2
        kept = shape.layers * tokens * shape.hidden * width + layer
        note = f"{tokens:,} tokens, recomputed layer by layer"
    else:
        kept = shape.layers * layer
        note = f"{tokens:,} tokens in {shape.layers} layers"
    return Item("activations", "Activations", int(kept), note)


def _logits(shape: ModelShape, trained: int, width: int, device: str) -> Item:
    tokens, words = min(trained, _HEAD_TOKENS), min(shape.vocabulary, _HEAD_WORDS)
    copies = 0 if device == "cuda" else 5 * 4
    kept = tokens * words * (width + copies) + words * shape.hidden * 4 + trained * shape.hidden * 8
    return Item("logits", "Logits and loss", kept, f"{tokens:,} trained tokens at a time over {words:,} words")
