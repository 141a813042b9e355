"""Load a base model and its tokenizer from a folder on this machine.

Safetensors only, nothing from the network, no code from the model's folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import BadInput, Unavailable
from studio.recipe import PLAIN_ATTENTION_TOKENS
from studio.recipe.fields import Quantization

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    TEMPLATE_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True, slots=True)
class Device:
    """Compute device: torch's name and a readable description."""

    name: str
    words: str

    @property
    def is_cuda(self) -> bool:
        return self.name == "cuda"


def pick_device() -> Device:
    """Return the NVIDIA GPU if there is one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Device("cuda", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    return Device("cpu", f"CPU, {torch.get_num_threads()} threads")


def quiet_libraries() -> None:
    """Turn off progress bars, which do not suit a log file."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_base(folder: Path, dtype: str, device: Device, quantization: Quantization | None = None) -> Any:
    """Load the model in `folder` on `device`; `quantization` can quantise its weights to 4 or 8 bits."""
    import torch
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise BadInput(f"There is no model in {folder}: config.json is missing. Add the model again.")
    if device.is_cuda and dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise Unavailable(f"This GPU ({device.words}) cannot compute in bfloat16. Set dtype to float32.")
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True, "local_files_only": True}
    if quantization is not None and quantization.quantization != "none":
        options["quantization_config"] = _bitsandbytes(quantization, dtype)
        if quantization.four_bit and not device.is_cuda:
            from studio.engine.fast.quantize import quantize_by_kernel

            quantize_by_kernel()
    if device.is_cuda:
        options["device_map"] = {"": 0}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except OSError as error:
        raise BadInput(f"The model in {folder} cannot be loaded: {_first_line(error)}") from error
    if "quantization_config" in options:
        from studio.engine.compat.bitsandbytes import keep_trainable

        keep_trainable(model)
    return model


def use_plain_attention_if_short(model: Any, device: Device, longest: int) -> None:
    """On a CPU, compute attention as plain products when no example is longer than PLAIN_ATTENTION_TOKENS."""
    if not device.is_cuda and longest <= PLAIN_ATTENTION_TOKENS:
        model.set_attn_implementation("eager")


def _bitsandbytes(quantization: Quantization, dtype: str) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if not quantization.four_bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    compute_dtype = quantization.bnb_4bit_compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.quantization,
        bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype if compute_dtype == "same" else compute_dtype),
    )


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`, with a padding token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise BadInput(f"The tokenizer in {folder} cannot be loaded: {_first_line(error)}") from error
    if tokenizer.pad_token is None:
        # Any token will do for padding, which is masked in attention and labels.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
