"""What a source can be exported to, and the expected sizes. Exporting is in exports.py."""

from dataclasses import dataclass

from studio.services.core.studio import Studio
from studio.services.models import models, trained_weights
from studio.services.models.trained_weights import Source

KINDS = {
    "adapter": (
        "Adapter",
        "A few MB in PEFT's layout, to load on top of the base model. Many adapters can share one base.",
    ),
    "merged": ("Merged model", "Base and adapter as one model in safetensors. Loads anywhere, without PEFT."),
    "gguf": ("GGUF", "One file for llama.cpp, Ollama and LM Studio, including template and stop tokens."),
}
DTYPES = ("float32", "bfloat16", "float16")
# Types of a GGUF: a description, and the bytes per weight (llama.cpp's blocks with their scales).
QUANTS = {
    "Q8_0": ("as good as 16 bits, half the size", 1.07),
    "Q6_K": ("slightly worse, smaller", 0.84),
    "Q4_K_M": ("the usual choice for large models; small ones lose more", 0.62),
    "F16": ("not quantised", 2.0),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of export. size: expected bytes; sizes: expected bytes by quant, for a GGUF."""

    kind: str
    title: str
    why: str
    size: int
    sizes: dict[str, int]


def find(studio: Studio, key: str) -> list[Target]:
    """What a source can be exported to, without the kinds that its method does not support."""
    source = trained_weights.find(studio, key)
    return [
        Target(kind, *KINDS[kind], size, gguf_sizes(studio, source) if kind == "gguf" else {})
        for kind, size in sizes(studio, source).items()
    ]


def sizes(studio: Studio, source: Source, dtype: str = "") -> dict[str, int]:
    """Expected bytes of each target. dtype: type the weights are merged in, empty for the run's own."""
    recipe = source.recipe
    width = 4 if (dtype or recipe.model.dtype) == "float32" else 2
    parameters = models.shape_of(studio, source.model).parameters
    folder = sum(path.stat().st_size for path in source.folder.glob("adapter_*") if path.is_file())
    expected = {"adapter": folder, "merged": parameters * width, "gguf": gguf_sizes(studio, source)["Q8_0"]}
    for kind in cannot(source):
        del expected[kind]
    return expected


def gguf_sizes(studio: Studio, source: Source) -> dict[str, int]:
    """Expected bytes of a GGUF, by quant."""
    parameters = models.shape_of(studio, source.model).parameters
    return {quant: int(parameters * width) for quant, (_, width) in QUANTS.items()}


def cannot(source: Source) -> tuple[str, ...]:
    """The kinds that a source's method cannot be exported to."""
    if not (source.folder / "adapter_config.json").is_file():
        return ("adapter",)
    return ("merged", "gguf") if source.recipe.method.method in ("prompt", "prefix") else ()
