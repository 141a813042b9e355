"""Unstable names of PEFT: the layers that LoRA wraps around a model's own.

No other part of the engine uses them, except for these attributes of LoRA layers: lora_A, lora_B, lora_dropout,
scaling, r, active_adapters, disable_adapters, merged and base_layer. RELIES_ON checks those too.
"""

from typing import Any

from studio.engine.compat.contract import Name


def lora_layers(model: Any) -> list[Any]:
    """Return the LoRA layers of a model."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def is_lora_layer(module: Any) -> bool:
    """Whether it is a LoRA layer of any kind."""
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def is_whole_lora_linear(module: Any) -> bool:
    """Whether it is LoRA on an unquantised linear layer, of exactly that class."""
    from peft.tuners.lora import Linear

    return type(module) is Linear


def is_4bit_lora_linear(module: Any) -> bool:
    """Whether it is LoRA on a 4-bit linear layer, of exactly that class."""
    # By name: the class needs bitsandbytes, whose import takes a second.
    return type(module).__name__ == "Linear4bit" and is_lora_layer(module)


def adapters_of(layer: Any) -> set[str]:
    """Names of the adapters of a LoRA layer, on its weight or its embeddings."""
    return {*layer.lora_A, *layer.lora_embedding_A}


def has_variant(layer: Any, adapter: str = "") -> bool:
    """Whether an adapter of a layer (empty: any) computes with more than A and B, as DoRA does."""
    return adapter in layer.lora_variant if adapter else bool(layer.lora_variant)


def has_lora_bias(layer: Any) -> bool:
    """Whether any adapter of a layer has its own bias."""
    return any(layer.lora_bias.values())


def set_dora_magnitude(layer: Any, adapter: str) -> None:
    """Reset DoRA's magnitudes to the norms of base plus adapter; do nothing for other adapters."""
    if layer.use_dora[adapter]:
        layer.lora_magnitude_vector[adapter].update_layer(
            base_layer=layer.get_base_layer(),
            lora_A=layer.lora_A[adapter].weight,
            lora_B=layer.lora_B[adapter].weight,
            scaling=layer.scaling[adapter],
        )


def _is_read_as_before(_: Any) -> bool:
    """Whether a small LoRA layer has all attributes that the engine reads, with the expected values."""
    from peft import LoraConfig, get_peft_model
    from torch import nn

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    (layer,) = lora_layers(model)
    shapes = layer.lora_A["default"].weight.shape == (2, 4) and layer.lora_B["default"].weight.shape == (4, 2)
    config = layer.r["default"] == 2 and float(layer.scaling["default"]) == 4 and "default" in layer.lora_dropout
    state = list(layer.active_adapters) == ["default"] and not layer.disable_adapters and not layer.merged
    plain = is_whole_lora_linear(layer) and not has_variant(layer) and not has_lora_bias(layer)
    named = adapters_of(layer) == {"default"} and type(layer.base_layer) is nn.Linear
    return shapes and config and state and plain and named and not layer.use_dora["default"]


def _marks_dora(_: Any) -> bool:
    """Whether a DoRA layer can be distinguished from plain LoRA."""
    from peft import LoraConfig, get_peft_model
    from torch import nn

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"], use_dora=True))
    (layer,) = lora_layers(model)
    set_dora_magnitude(layer, "default")
    return has_variant(layer) and has_variant(layer, "default") and bool(layer.use_dora["default"])


RELIES_ON: tuple[Name, ...] = (
    Name(
        "peft.tuners.lora.LoraLayer",
        "layers with an adapter would not be found, and no answers given with one",
        holds=_is_read_as_before,
    ),
    Name("peft.tuners.lora.Linear", "no layer could use the fast path"),
    Name("peft.tuners.lora.Linear4bit", "no 4-bit layer could use the fast path or LoftQ"),
    Name(
        "peft.tuners.lora.dora.DoraLinearLayer.update_layer",
        "DoRA with LoftQ would start with wrong magnitudes, and DoRA would be treated as plain LoRA",
        takes=("base_layer", "lora_A", "lora_B", "scaling"),
        holds=_marks_dora,
    ),
)
