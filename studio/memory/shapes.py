"""Shape of a model: its config and the names, shapes and types of its tensors.

Reads only config.json and the headers of the safetensors files; linear layers are detected from the header, not from a
list of names. Header format: https://github.com/huggingface/safetensors (8 bytes little-endian length, then JSON).
"""

import json
import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from studio.errors import BadInput
from studio.rundir import read_json

BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
# Maximum header size: the library itself refuses more than 100 MB.
_MAX_HEADER = 100 * 2**20
# Buffers that files of old versions contain besides the parameters: causal masks, rotary tables.
_BUFFERS = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")
# Architectures whose head is the embedding unless the config says otherwise.
_TIED = ("gpt2", "gemma", "gemma2", "gemma3", "gemma3_text", "falcon")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer in the decoder. module: last part of its name, as used in target_modules.

    layer: index of its decoder block; path: its name within that block; bias: whether it has one.
    """

    module: str
    out_features: int
    in_features: int
    layer: int = 0
    path: str = ""
    bias: bool = False

    @property
    def elements(self) -> int:
        return self.out_features * self.in_features


@dataclass(frozen=True, eq=False)
class ModelShape:
    """A model's architecture, as needed for the estimate."""

    name: str
    config: dict[str, Any]
    tensors: list[Tensor] = field(repr=False)

    @cached_property
    def trained_tensors(self) -> list[Tensor]:
        """The parameters among the tensors: without masks and tables in old files, and a tied head only once."""
        tied = self.config.get("tie_word_embeddings", self.architecture in _TIED) and any(
            re.search(r"(embed_tokens|embed_in|wte|word_embeddings)\.weight$", tensor.name) for tensor in self.tensors
        )
        return [
            tensor
            for tensor in self.tensors
            if not _BUFFERS.search(tensor.name)
            and len(tensor.shape) < 4
            and not (tied and re.search(r"(lm_head|embed_out)\.weight$", tensor.name))
        ]

    @cached_property
    def parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(tensor.elements for tensor in self.trained_tensors)

    @cached_property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        return not any(re.search(r"(lm_head|embed_out)\.weight$", tensor.name) for tensor in self.trained_tensors)

    @cached_property
    def linears(self) -> list[Linear]:
        """Every linear layer of the decoder blocks, as adapted by all-linear and quantized by NF4; not lm_head."""
        linears = []
        names = {tensor.name for tensor in self.tensors}
        for tensor in self.tensors:
            block = re.search(r"\.(\d+)\.(.*)\.weight$", "." + tensor.name)
            if len(tensor.shape) != 2 or not block:
                continue
            out_features, in_features = tensor.shape
            if self.architecture == "gpt2":
                out_features, in_features = in_features, out_features  # Conv1D stores its weight transposed
            bias = tensor.name.removesuffix("weight") + "bias" in names
            linears.append(Linear(tensor.name.split(".")[-2], out_features, in_features, int(block[1]), block[2], bias))
        return linears

    @cached_property
    def groups(self) -> list[tuple[Linear, int]]:
        """Linear layers grouped by name and size, with their number: a handful instead of hundreds."""
        groups: dict[tuple[str, int, int, bool], list[Linear]] = {}
        for linear in self.linears:
            groups.setdefault((linear.module, linear.out_features, linear.in_features, linear.bias), []).append(linear)
        return [(group[0], len(group)) for group in groups.values()]

    @cached_property
    def elements(self) -> tuple[int, int, int]:
        """Parameters in decoder linear layers, in biases of linear layers, and in the largest tensor."""
        biases = sum(linear.out_features for linear in self.linears if linear.bias)
        return (
            sum(linear.elements for linear in self.linears),
            biases,
            max((tensor.elements for tensor in self.trained_tensors), default=0),
        )

    @cached_property
    def modules(self) -> dict[str, int]:
        """Names of linear layers and how often each occurs."""
        return dict(Counter(linear.module for linear in self.linears))

    @property
    def architecture(self) -> str:
        return str(self.config.get("model_type", "unknown"))

    @property
    def dtype(self) -> str:
        """The type in which most parameters are stored."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.dtype] += tensor.elements
        return sizes.most_common(1)[0][0] if sizes else ""

    def number(self, *names: str, default: int = 0) -> int:
        """The first of the named config entries that is an integer (architectures use different names)."""
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int):
                return value
        return default

    @property
    def layers(self) -> int:
        return self.number("num_hidden_layers", "n_layer", "n_layers")

    @property
    def hidden(self) -> int:
        return self.number("hidden_size", "n_embd", "d_model")

    @property
    def heads(self) -> int:
        return self.number("num_attention_heads", "n_head", default=1)

    @property
    def kv_heads(self) -> int:
        if self.architecture == "falcon" and self.config.get("multi_query", True):
            return self.number("num_kv_heads", default=1) if self.config.get("new_decoder_architecture") else 1
        return self.number("num_key_value_heads", "num_kv_heads", default=self.heads)

    @property
    def head_dim(self) -> int:
        return self.number("head_dim", default=self.hidden // max(1, self.heads))

    @property
    def intermediate(self) -> int:
        return self.number("intermediate_size", "n_inner", "ffn_dim", default=4 * self.hidden)

    @property
    def vocabulary(self) -> int:
        return self.number("vocab_size")

    @property
    def max_positions(self) -> int:
        return self.number("max_position_embeddings", "n_positions", default=0)


def read_shape(folder: Path) -> ModelShape:
    """Read the shape of the model in `folder`; raises BadInput that says what is missing and the remedy."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.")
    config = read_json(folder / "config.json")
    if config is None:
        raise BadInput(f"{folder} has no readable config.json, so it is not a model folder.")
    config = flat_config(config)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern)]
        if pickles:
            raise BadInput(
                f"{folder.name} stores its weights as {pickles[0]}, a pickle: opening one can run foreign code, so it "
                "is refused. Get the model's safetensors version."
            )
        raise BadInput(f"{folder} has no weights: there is no .safetensors file in it.")
    _check_shards(folder)
    tensors = [tensor for path in files for tensor in read_header(path)]
    return ModelShape(folder.name, config, tensors)


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the entries of its text_config, if any, merged at the top level."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _check_shards(folder: Path) -> None:
    index = read_json(folder / "model.safetensors.index.json") or {}
    named = index.get("weight_map")
    for name in sorted(set(named.values())) if isinstance(named, dict) else []:
        if not (folder / str(name)).is_file():
            raise BadInput(f"{folder.name} is incomplete: its index names {name}, and that file is missing.")


def read_header(path: Path) -> list[Tensor]:
    """The tensors of one safetensors file; raises BadInput when it is not one or was cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise BadInput(f"{path.name} is not a safetensors file, whatever its name says.")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            tensors = [Tensor(name, tuple(entry["shape"]), entry["dtype"]) for name, entry in entries.items()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BadInput(f"{path.name} is not a safetensors file, whatever its name says.") from None
    if size < 8 + length + end:
        raise BadInput(f"{path.name} was cut short: it has {size:,} of {8 + length + end:,} bytes. Download it again.")
    return tensors


def stored_bytes(shape: ModelShape) -> int:
    """Bytes of the weights on disk."""
    return sum(tensor.elements * BYTES.get(tensor.dtype, 4) for tensor in shape.tensors)
