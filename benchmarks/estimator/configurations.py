"""Configurations to measure: models, methods, types, lengths and batches that the form offers."""

from dataclasses import dataclass, field
from typing import Any

SMOLLM2 = "smollm2"


@dataclass(frozen=True)
class Configuration:
    """One configuration: model name, rows per batch, tokens per row, share of trained tokens, other recipe values."""

    model: str
    batch: int
    length: int
    share: float = 0.3
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return settings or "LoRA r 16, all linear"


_MODELS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "phi3", "gpt_neox", "gpt2")
_NF4: dict[str, Any] = {"quantization": "nf4"}
_CHECKPOINTED: dict[str, Any] = {"gradient_checkpointing": True}


def _every(batch: int, length: int, share: float = 0.3, **values: Any) -> list[Configuration]:
    return [Configuration(model, batch, length, share, values) for model in _MODELS]


def all_configurations() -> list[Configuration]:
    """Return all configurations, more than a hundred."""
    configurations = [
        *_every(2, 300),
        *_every(3, 160, 0.1),
        *_every(1, 420, 0.05, lora_dropout=0.05),
        *_every(2, 280, 0.1, dtype="float32"),
        *_every(2, 300, 0.2, quantization="nf4"),
        *_every(2, 400, 0.1, gradient_checkpointing=True),
        *_every(2, 260, 0.1, method="full"),
        *_every(2, 280, 0.1, method="ia3"),
    ]
    for values in (
        {"target_modules": ["q_proj", "v_proj"]},
        {"r": 64},
        {"r": 4, "dtype": "float32", "lora_dropout": 0.1},
        {"use_dora": True},
        {"use_dora": True, "lora_dropout": 0.05},
        {"use_dora": True, **_NF4},
        {"bias": "all", "use_rslora": True},
        {"gradient_accumulation_steps": 2, "r": 32},
        {"packing": True},
        {"packing": True, **_CHECKPOINTED},
        {"method": "prompt"},
        {"method": "prompt", "num_virtual_tokens": 64, **_CHECKPOINTED},
        {"method": "prefix"},
        {"method": "full", **_CHECKPOINTED},
        {"method": "full", "dtype": "float32"},
        {"method": "full", "gradient_accumulation_steps": 2},
        {"method": "ia3", **_NF4},
        {"quantization": "int8"},
        {"quantization": "int8", **_CHECKPOINTED},
        {"quantization": "fp4", "bnb_4bit_use_double_quant": False},
        {"quantization": "nf4", "dtype": "float32"},
        {"quantization": "nf4", "dtype": "float32", "bnb_4bit_compute_dtype": "bfloat16"},
        {"quantization": "nf4", "lora_dropout": 0.1, **_CHECKPOINTED},
        {"quantization": "nf4", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"per_device_eval_batch_size": 12, **_CHECKPOINTED},
        {"neftune_noise_alpha": 5.0},
    ):
        configurations.append(Configuration("llama", 2, 320, 0.1, values))
    for values in ({"quantization": "int8"}, {"method": "prompt"}, {"method": "prefix"}, {"packing": True}):
        configurations.append(Configuration("qwen3", 2, 288, 0.1, values))
        configurations.append(Configuration("gpt_neox", 2, 200, 0.1, values))
    configurations += [
        Configuration("llama", 8, 64, 0.5),
        Configuration("llama", 1, 1024, 0.02),
        Configuration("llama", 1, 1024, 0.02, _CHECKPOINTED),
        Configuration("mistral", 4, 200, 1.0, {"max_length": 200}),
        Configuration(SMOLLM2, 1, 200, 0.1),
        Configuration(SMOLLM2, 2, 160, 0.4, {"lora_dropout": 0.05}),
        Configuration(SMOLLM2, 2, 300, 0.1, _CHECKPOINTED),
        Configuration(SMOLLM2, 1, 128, 0.1, _NF4),
        Configuration(SMOLLM2, 2, 128, 0.1, {"quantization": "int8", **_CHECKPOINTED}),
    ]
    return configurations


def subset() -> list[Configuration]:
    """Return eight configurations of different kinds, for the tests."""
    return [
        Configuration("llama", 2, 300, 0.1),
        Configuration("llama", 2, 300, 0.1, {"quantization": "nf4", **_CHECKPOINTED}),
        Configuration("llama", 2, 200, 0.1, {"method": "full"}),
        Configuration("qwen3", 2, 288, 0.1, {"lora_dropout": 0.05}),
        Configuration("gemma3", 2, 160, 0.1, {"dtype": "float32"}),
        Configuration("gpt2", 2, 200, 0.1, {"r": 8}),
        Configuration("gpt_neox", 2, 200, 0.1, {"method": "ia3"}),
        Configuration("phi3", 1, 320, 0.1, {"quantization": "int8"}),
    ]
