"""What a source can be exported to, and how large that will be. What it does not do: export (exports.py)."""

from dataclasses import dataclass

from studio.services.core.studio import Studio
from studio.services.models import models, trained_weights
from studio.services.models.trained_weights import Source

KINDS = {
    "adapter": ("Adapter", "A few MB in PEFT's layout, to load beside the base model. Many adapters share one base."),
    "merged": ("Merged model", "Base and adapter as one model in safetensors. Loads anywhere, no PEFT."),
    "gguf": ("GGUF", "One file for llama.cpp, Ollama and LM Studio, with template and stop tokens in it."),
}
DTYPES = ("float32", "bfloat16", "float16")
# Types of a GGUF: what each is for, and its bytes a weight (llama.cpp's blocks with their scales).
QUANTS = {
    "Q8_0": ("as good as 16 bits, half the size", 1.07),
    "Q6_K": ("hardly worse, smaller", 0.84),
    "Q4_K_M": ("the usual choice for large models; small ones lose more", 0.62),
    "F16": ("not quantised", 2.0),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a source can be exported to; size: bytes expected, by quant for a GGUF."""

    kind: str
    title: str
    why: str
    size: int
    sizes: dict[str, int]


def find(studio: Studio, key: str) -> list[Target]:
    """What a source can be exported to. What its method cannot give is left out."""
    source = trained_weights.find(studio, key)
    return [
        Target(kind, *KINDS[kind], size, gguf_sizes(studio, source) if kind == "gguf" else {})
        for kind, size in sizes(studio, source).items()
    ]


def sizes(studio: Studio, source: Source, dtype: str = "") -> dict[str, int]:
    """Bytes expected of each target; dtype: that weights are merged in, empty for the run's own."""
    recipe = source.recipe
    width = 4 if (dtype or recipe.model.dtype) == "float32" else 2
    parameters = models.shape_of(studio, source.model).parameters
    folder = sum(path.stat().st_size for path in source.folder.glob("adapter_*") if path.is_file())
    found = {"adapter": folder, "merged": parameters * width, "gguf": gguf_sizes(studio, source)["Q8_0"]}
    for kind in cannot(source):
        del found[kind]
    return found


def gguf_sizes(studio: Studio, source: Source) -> dict[str, int]:
    """Bytes expected of a GGUF, by quant."""
    parameters = models.shape_of(studio, source.model).parameters
    return {quant: int(parameters * width) for quant, (_, width) in QUANTS.items()}


def cannot(source: Source) -> tuple[str, ...]:
    """What the method of a source cannot be exported to."""
    if not (source.folder / "adapter_config.json").is_file():
        return ("adapter",)
    return ("merged", "gguf") if source.recipe.method.method in ("prompt", "prefix") else ()
