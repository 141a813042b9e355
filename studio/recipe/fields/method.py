"""Recipe fields for the training method and the quantization of the frozen base."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from studio.recipe.fields.base import Theme, knob


def _modules(value: Any) -> Any:
    """Normalise target modules as typed in forms and files, such as `q_proj,v_proj` and ["all-linear"]."""
    if isinstance(value, str) and value != "all-linear":
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)) and "all-linear" in value:
        if len(value) > 1:
            raise ValueError("all-linear cannot be combined with other names: it already covers every linear layer")
        return "all-linear"
    return value


class Method(Theme):
    method: Literal["lora", "ia3", "prompt", "prefix", "full"] = knob(
        "lora",
        label="Method",
        becomes="get_peft_model(peft_config=)",
        help="lora adds 2 small matrices to each layer and suits almost every task. ia3 trains 1 factor per channel; "
        "prompt and prefix train about 20 virtual tokens: far fewer parameters, weaker results. full trains every "
        "weight and needs 8 to 16 times the memory of the weights.",
        simple=True,
    )
    r: int = knob(
        16,
        label="Rank",
        becomes="LoraConfig(r=)",
        help="Size of the adapter. Start at 16. Use 4 to 8 to teach a format or style, 32 to 64 for code, reasoning "
        "or large datasets.",
        simple=True,
        methods=("lora",),
        ge=1,
        le=1024,
    )
    lora_alpha: int = knob(
        32,
        label="Alpha",
        becomes="LoraConfig(lora_alpha=)",
        help="Strength of the update, which is scaled by lora_alpha / r: 32 at r 16 doubles it. Start at 2 × r. Raise "
        "it when the model barely changes, lower it when the loss spikes. It acts like a learning rate, so tune only "
        "one of the two.",
        simple=True,
        methods=("lora",),
        ge=1,
        le=4096,
    )
    lora_dropout: float = knob(
        0.05,
        label="Dropout",
        becomes="LoraConfig(lora_dropout=)",
        help="Share of the adapter's inputs dropped at random, against overfitting. Start at 0.05. Use 0.1 when the "
        "evaluation loss rises or data is scarce; 0 for large datasets and for speed on a CPU.",
        unit="share",
        simple=True,
        methods=("lora",),
        ge=0,
        le=0.9,
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_modules)] = knob(
        "all-linear",
        label="Target modules",
        becomes="LoraConfig(target_modules=)",
        help="The layers that get an adapter; no other setting affects quality as much. Keep all-linear (7 modules "
        "per Llama layer). When memory is short use q_proj and v_proj only: 1 to 3% worse on hard tasks.",
        simple=True,
        methods=("lora",),
    )
    bias: Literal["none", "all", "lora_only"] = knob(
        "none",
        label="Biases",
        becomes="LoraConfig(bias=)",
        help="Keep none (0 biases trained). all trains every bias in the model, lora_only those of adapted layers. "
        "With trained biases, turning the adapter off no longer gives back the base model.",
        methods=("lora",),
    )
    use_rslora: bool = knob(
        False,
        label="Rank-stabilised scaling",
        becomes="LoraConfig(use_rslora=)",
        help="Scales the update by lora_alpha / sqrt(r) instead of lora_alpha / r (rsLoRA, Kalajdzievski 2023). Turn "
        "it on from r 32. At r 16 the same alpha acts 4 times as strongly, so lower alpha.",
        methods=("lora",),
    )
    use_dora: bool = knob(
        False,
        label="DoRA",
        becomes="LoraConfig(use_dora=)",
        help="Trains the direction and the magnitude of the weights separately (Liu et al. 2024). Try it below r 16, "
        "where it is often better. It adds 1 parameter per output, and a step takes up to twice as long.",
        methods=("lora",),
    )
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora", "loftq"] = knob(
        "default",
        label="Initialisation",
        becomes="LoraConfig(init_lora_weights=)",
        help="Keep default: B is 0, so training starts at the base model. pissa and olora initialise from the base's "
        "leading directions and keep the residual in the base; loftq compensates for 4-bit rounding. These three "
        "take minutes to set up on a 7 B model.",
        methods=("lora",),
    )
    loraplus_lr_ratio: float = knob(
        0.0,
        label="LoRA+ ratio",
        becomes="create_loraplus_optimizer(loraplus_lr_ratio=)",
        help="Learning rate of B divided by that of A (LoRA+, Hayou et al. 2024). 0 turns it off; try their 16 when "
        "training is slow to converge.",
        methods=("lora",),
        ge=0,
        le=256,
    )
    num_virtual_tokens: int = knob(
        20,
        label="Virtual tokens",
        becomes="PromptTuningConfig(num_virtual_tokens=), PrefixTuningConfig(num_virtual_tokens=)",
        help="Trained positions placed before every example. Start at 20; use up to 100 for harder tasks, down to 8 "
        "for simple ones. They take up context.",
        unit="tokens",
        methods=("prompt", "prefix"),
        ge=1,
        le=1024,
    )

    @property
    def scale(self) -> float:
        """Factor applied to the update B·A: lora_alpha / r (Hu et al. 2021, section 4.1), or lora_alpha / sqrt(r)
        with rsLoRA (Kalajdzievski 2023)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @model_validator(mode="after")
    def _some_module(self) -> Self:
        if not self.target_modules:
            raise ValueError("target_modules is empty: name at least one layer, or use all-linear")
        return self


class Quantization(Theme):
    quantization: Literal["none", "int8", "nf4", "fp4"] = knob(
        "none",
        label="Quantization",
        becomes="BitsAndBytesConfig(load_in_8bit=, load_in_4bit=, bnb_4bit_quant_type=)",
        help="Stores the frozen base in fewer bits. Choose nf4 (4 bits, QLoRA) when memory is short: a quarter of the "
        "memory, steps up to a third slower. fp4 is slightly less accurate; int8 takes half the memory. none keeps 16 "
        "or 32 bits.",
        simple=True,
    )
    bnb_4bit_use_double_quant: bool = knob(
        True,
        label="Double quantization",
        becomes="BitsAndBytesConfig(bnb_4bit_use_double_quant=)",
        help="Also quantizes the scales of nf4 and fp4. Keep it on: it saves 0.37 bits per parameter, 0.3 GB on a 7 B "
        "model.",
    )
    bnb_4bit_compute_dtype: Literal["same", "bfloat16", "float32"] = knob(
        "same",
        label="Compute type",
        becomes="BitsAndBytesConfig(bnb_4bit_compute_dtype=)",
        help="Type that 4-bit weights are unpacked to for multiplication. Keep same (the weight type); bfloat16 needs "
        "2 bytes of workspace per number, float32 needs 4.",
    )

    @property
    def four_bit(self) -> bool:
        """Whether the base is stored in 4 bits."""
        return self.quantization in ("nf4", "fp4")


# Layers scaled by IA³ (Liu et al. 2022, section 3.3: keys, values and the inner activations of the feed-forward), under
# the names the architectures use, from PEFT's table.
_IA3_KEYS_VALUES = ("k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
_IA3_FEEDFORWARD = ("down_proj", "dense_4h_to_h", "fc2", "c_fc")


def ia3_modules(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Select from a model's linear layers (last part of each name) those that IA³ scales; second, the feed-forward
    ones among them."""
    known = set(names)
    feedforward = [name for name in _IA3_FEEDFORWARD if name in known]
    return [*(name for name in _IA3_KEYS_VALUES if name in known), *feedforward], feedforward
