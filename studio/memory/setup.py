"""How a recipe is computed: the width of each kind of tensor, the trained parts, the batch.

Widths in bytes. `stream`: the residual stream between layers; `compute`: matrix products. They follow from the engine:
autocast computes in bfloat16; tensors that bitsandbytes does not quantize are cast to float32 by PEFT's
prepare_model_for_kbit_training; trained weights are float32, but A and B over a quantised base are bfloat16 (TRL).
"""

from dataclasses import dataclass, replace
from typing import Literal

from studio.machine.cpu import Processor
from studio.memory.shapes import Linear, ModelShape
from studio.recipe import PLAIN_ATTENTION_TOKENS, Recipe
from studio.recipe.fast_path import products, why_not
from studio.recipe.fields.method import ia3_modules

Method = Literal["lora", "ia3", "prompt", "prefix", "full"]


@dataclass(frozen=True, slots=True)
class Setup:
    """A batch of `batch` rows of `length` tokens (including virtual ones), and how it is computed.

    fast: whether by the fast path. threads: number of threads of its compiled attention. held: width of the base's
    weights where it is not quantized. example: tokens of the longest example in a packed row; 0 without packing.
    """

    batch: int
    length: int
    trained: int
    method: Method
    quantization: str
    held: int
    stream: int
    compute: int
    autocast: bool
    adapter: int
    unpacked: int
    double: bool
    r: int
    dropout: float
    dora: bool
    targets: frozenset[str] | None
    feedforward: frozenset[str]
    cuda: bool
    plain_attention: bool
    masked: bool
    prefix: int
    fast: bool = False
    threads: int = 0
    example: int = 0
    training: bool = True

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def full(self) -> bool:
        return self.method == "full"

    @property
    def lora_compute(self) -> int:
        """Width in which A and B are multiplied."""
        return 2 if self.autocast else self.adapter

    def adapts(self, linear: Linear) -> bool:
        """Whether the method adapts this layer."""
        if self.method == "lora":
            return self.targets is None or linear.module in self.targets
        return self.method == "ia3" and self.targets is not None and linear.module in self.targets

    def of(self, batch: int, trained: int, *, training: bool) -> "Setup":
        """Copy with another batch."""
        return replace(self, batch=batch, trained=trained, training=training, masked=self.masked or batch > 1)


def setup_of(
    shape: ModelShape, recipe: Recipe, cuda: bool, length: int, trained_share: float, processor: Processor
) -> Setup:
    """The setup of one training step. length: tokens of the longest row."""
    method, quantization = recipe.method, recipe.quantization
    quantized = quantization.quantization != "none"
    half = recipe.model.dtype == "bfloat16"
    batch = recipe.schedule.per_device_train_batch_size
    trained = max(1, round(batch * length * trained_share))
    virtual = method.num_virtual_tokens if method.method == "prompt" else 0
    fast = not why_not(recipe, shape.config, cuda)
    width = 2 if half else 4
    compute = {"bfloat16": 2, "float32": 4}[products(recipe.model.dtype, cuda, processor.bf16 or not fast)]
    unpacked = {"same": compute, "bfloat16": 2, "float32": 4}[quantization.bnb_4bit_compute_dtype]
    scaled, feedforward = ia3_modules(linear.module for linear, _ in shape.groups)
    targets: frozenset[str] | None = None
    if method.method == "ia3":
        targets = frozenset(scaled)
    elif method.method == "lora" and method.target_modules != "all-linear":
        targets = frozenset(method.target_modules)
    return Setup(
        batch=batch,
        length=length + virtual,
        trained=trained,
        method=method.method,
        quantization=quantization.quantization,
        held=4 if method.method == "full" else width,
        stream=4 if quantized or method.method == "full" else compute,
        compute=compute,
        autocast=half,
        adapter=2 if quantized and method.method == "lora" else 4,
        unpacked=unpacked,
        double=quantization.bnb_4bit_use_double_quant,
        r=method.r,
        dropout=method.lora_dropout if method.method == "lora" else 0.0,
        dora=method.method == "lora" and method.use_dora,
        targets=targets,
        feedforward=frozenset(feedforward),
        cuda=cuda,
        plain_attention=not cuda and length <= PLAIN_ATTENTION_TOKENS,
        # Padding of rows of unequal length and packing both need a mask.
        masked=batch > 1 or recipe.schedule.packing or method.method == "prefix",
        prefix=method.num_virtual_tokens if method.method == "prefix" else 0,
        fast=fast,
        threads=0 if cuda else processor.threads,
    )
