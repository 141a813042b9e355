"""What is trained of the model, and how its frozen part is held."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from studio.recipe.fields.base import Theme, knob


def _modules(value: Any) -> Any:
    """`q_proj,v_proj` and ["all-linear"] as people and forms write them."""
    if isinstance(value, str) and value != "all-linear":
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)) and "all-linear" in value:
        if len(value) > 1:
            raise ValueError("all-linear stands alone: it already names every linear layer")
        return "all-linear"
    return value


class Method(Theme):
    method: Literal["lora", "ia3", "prompt", "prefix", "full"] = knob(
        "lora",
        label="Method",
        becomes="get_peft_model(peft_config=)",
        help="lora adds two thin matrices to each layer and suits nearly everything. ia3 trains 1 factor a channel, "
        "prompt and prefix some 20 virtual tokens: far fewer parameters, weaker. full trains all weights, in 8 to 16 "
        "times the memory of the weights.",
        simple=True,
    )
    r: int = knob(
        16,
        label="Rank",
        becomes="LoraConfig(r=)",
        help="Width of the adapter. Start at 16; 4 to 8 for a format or style, 32 to 64 for code, reasoning or "
        "much data.",
        simple=True,
        methods=("lora",),
        ge=1,
        le=1024,
    )
    lora_alpha: int = knob(
        32,
        label="Alpha",
        becomes="LoraConfig(lora_alpha=)",
        help="Strength: the update is scaled by lora_alpha / r, so 32 at r 16 doubles it. Raising alpha "
        "strengthens the update; it acts like a learning rate, so tune one of the two.",
        simple=True,
        methods=("lora",),
        ge=1,
        le=4096,
    )
    lora_dropout: float = knob(
        0.05,
        label="Dropout",
        becomes="LoraConfig(lora_dropout=)",
        help="Share of the adapter's inputs dropped at random against overfitting. 0.05 is usual, 0.1 for small "
        "models with little data; 0 is somewhat faster on a CPU.",
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
        help="The layers that get an adapter. all-linear adapts all 7 kinds in a Llama layer and is the choice that "
        "matters most; q_proj and v_proj alone save memory and are 1 to 3% worse on hard tasks.",
        simple=True,
        methods=("lora",),
    )
    bias: Literal["none", "all", "lora_only"] = knob(
        "none",
        label="Biases",
        becomes="LoraConfig(bias=)",
        help="none trains 0 biases and is usual; all trains every bias of the model, lora_only those of adapted "
        "layers. With biases trained, the model without the adapter is no longer the base.",
        methods=("lora",),
    )
    use_rslora: bool = knob(
        False,
        label="Rank-stabilised",
        becomes="LoraConfig(use_rslora=)",
        help="Scales the update by lora_alpha / sqrt(r) instead of lora_alpha / r, so that ranks above 32 keep "
        "learning (Kalajdzievski 2023). At r 16 it is 4 times as strong.",
        methods=("lora",),
    )
    use_dora: bool = knob(
        False,
        label="DoRA",
        becomes="LoraConfig(use_dora=)",
        help="Trains direction and length of each weight column apart (Liu et al. 2024): often better below r 16, "
        "with 1 more number a column, and a step takes up to twice as long.",
        methods=("lora",),
    )
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora", "loftq"] = knob(
        "default",
        label="Initialisation",
        becomes="LoraConfig(init_lora_weights=)",
        help="default begins at 0 change (B is zero). pissa and olora begin at the base's main directions and move "
        "them out of the base; loftq makes up for 4-bit rounding. Those take minutes to set up on a 7 B model.",
        methods=("lora",),
    )
    loraplus_lr_ratio: float = knob(
        0.0,
        label="LoRA+ ratio",
        becomes="create_loraplus_optimizer(loraplus_lr_ratio=)",
        help="Learning rate of B over that of A (Hayou et al. 2024). 16 is their usual; 0 turns it off.",
        methods=("lora",),
        ge=0,
        le=256,
    )
    num_virtual_tokens: int = knob(
        20,
        label="Virtual tokens",
        becomes="PromptTuningConfig(num_virtual_tokens=), PrefixTuningConfig(num_virtual_tokens=)",
        help="Trained positions put before every example. 20 is usual, 8 to 100; they take room of the context.",
        unit="tokens",
        methods=("prompt", "prefix"),
        ge=1,
        le=1024,
    )

    @property
    def scale(self) -> float:
        """What the update is multiplied with: lora_alpha / r (Hu et al. 2021, section 4.1), with rsLoRA
        lora_alpha / sqrt(r) (Kalajdzievski 2023)."""
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
        help="nf4 holds the frozen base in 4 bits (QLoRA): a quarter of the memory, up to a third slower a step. "
        "fp4 is a little less exact, int8 takes half the memory. none keeps 16 or 32 bits.",
        simple=True,
    )
    bnb_4bit_use_double_quant: bool = knob(
        True,
        label="Double quantization",
        becomes="BitsAndBytesConfig(bnb_4bit_use_double_quant=)",
        help="Quantizes the scales of nf4 and fp4 as well: saves 0.37 bits a parameter, 0.3 GB on a 7 B model.",
    )
    bnb_4bit_compute_dtype: Literal["same", "bfloat16", "float32"] = knob(
        "same",
        label="Compute type",
        becomes="BitsAndBytesConfig(bnb_4bit_compute_dtype=)",
        help="What 4-bit weights are unpacked to for the products. same: the weight type above; bfloat16 halves the "
        "workspace of float32.",
    )

    @property
    def four_bit(self) -> bool:
        """Whether the base is held in 4 bits."""
        return self.quantization in ("nf4", "fp4")


# The layers IA³ scales (Liu et al. 2022, section 3.3: keys, values and the feed-forward's inner activations), by the
# names architectures give them, after PEFT's table.
_IA3_KEYS_VALUES = ("k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
_IA3_FEEDFORWARD = ("down_proj", "dense_4h_to_h", "fc2", "c_fc")


def ia3_modules(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of a model's linear layers (last parts of their names) those IA³ scales, and which of them are feed-forward."""
    known = set(names)
    feedforward = [name for name in _IA3_FEEDFORWARD if name in known]
    return [*(name for name in _IA3_KEYS_VALUES if name in known), *feedforward], feedforward
