"""LoRA Studio: fine-tune language models with LoRA and QLoRA, and trust what you see."""

__version__ = "0.1.0"
