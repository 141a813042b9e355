"""The names of PEFT that it does not promise to keep: the layers that LoRA puts around a model's own.

Nothing else in the engine touches them, but for the public classes' attributes that every LoRA layer here is read by:
lora_A, lora_B, lora_dropout, scaling, r, active_adapters, disable_adapters, merged and base_layer. They are checked in
RELIES_ON too.
"""

from typing import Any

from studio.engine.compat.contract import Name


def lora_layers(model: Any) -> list[Any]:
    """The layers of a model that LoRA was put on."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def is_lora_layer(module: Any) -> bool:
    """Whether LoRA was put on it, in whatever way."""
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def is_whole_lora_linear(module: Any) -> bool:
    """Whether it is LoRA on a linear layer that is not quantised, and neither a subclass."""
    from peft.tuners.lora import Linear

    return type(module) is Linear


def is_4bit_lora_linear(module: Any) -> bool:
    """Whether it is LoRA on a linear layer in 4 bits, of exactly that class."""
    # By name: the class is there only where bitsandbytes is, and importing that takes a second.
    return type(module).__name__ == "Linear4bit" and is_lora_layer(module)


def adapters_of(layer: Any) -> set[str]:
    """The adapters that a LoRA layer has, whether they change its weight or its embeddings."""
    return {*layer.lora_A, *layer.lora_embedding_A}


def has_variant(layer: Any, adapter: str = "") -> bool:
    """Whether an adapter of a layer (none named: any) computes otherwise than by A and B alone, as DoRA does."""
    return adapter in layer.lora_variant if adapter else bool(layer.lora_variant)


def has_lora_bias(layer: Any) -> bool:
    """Whether any adapter of a layer has a bias of its own."""
    return any(layer.lora_bias.values())


def set_dora_magnitude(layer: Any, adapter: str) -> None:
    """Begin DoRA's magnitudes anew at the norms of base and adapter together, where the adapter is DoRA."""
    if layer.use_dora[adapter]:
        layer.lora_magnitude_vector[adapter].update_layer(
            base_layer=layer.get_base_layer(),
            lora_A=layer.lora_A[adapter].weight,
            lora_B=layer.lora_B[adapter].weight,
            scaling=layer.scaling[adapter],
        )


def _is_read_as_before(_: Any) -> bool:
    """Whether a small layer of ours has all that the engine reads, under the names and of the kinds it expects."""
    from peft import LoraConfig, get_peft_model
    from torch import nn

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    (layer,) = lora_layers(model)
    numbers = layer.lora_A["default"].weight.shape == (2, 4) and layer.lora_B["default"].weight.shape == (4, 2)
    told = layer.r["default"] == 2 and float(layer.scaling["default"]) == 4 and "default" in layer.lora_dropout
    state = list(layer.active_adapters) == ["default"] and not layer.disable_adapters and not layer.merged
    plain = is_whole_lora_linear(layer) and not has_variant(layer) and not has_lora_bias(layer)
    named = adapters_of(layer) == {"default"} and type(layer.base_layer) is nn.Linear
    return numbers and told and state and plain and named and not layer.use_dora["default"]


def _marks_dora(_: Any) -> bool:
    """Whether DoRA is told from plain LoRA."""
    from peft import LoraConfig, get_peft_model
    from torch import nn

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"], use_dora=True))
    (layer,) = lora_layers(model)
    set_dora_magnitude(layer, "default")
    return has_variant(layer) and has_variant(layer, "default") and bool(layer.use_dora["default"])


RELIES_ON: tuple[Name, ...] = (
    Name(
        "peft.tuners.lora.LoraLayer",
        "layers with an adapter would not be found, and nobody served with one",
        holds=_is_read_as_before,
    ),
    Name("peft.tuners.lora.Linear", "no layer would be fit for the fast path"),
    Name("peft.tuners.lora.Linear4bit", "no layer in 4 bits would be fit for the fast path, nor for LoftQ's start"),
    Name(
        "peft.tuners.lora.dora.DoraLinearLayer.update_layer",
        "DoRA over LoftQ's start would begin with wrong magnitudes, and DoRA be taken for plain LoRA",
        takes=("base_layer", "lora_A", "lora_B", "scaling"),
        holds=_marks_dora,
    ),
)
