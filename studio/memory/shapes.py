"""What a model folder is made of: its config and the names, shapes and types of its tensors.

Read from config.json and the headers of the safetensors files alone; linear layers are found in the header, not in
a list of names. Format of the header: https://github.com/huggingface/safetensors (8 bytes little-endian length, JSON).
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
# A header larger than this is no header: the library itself refuses at 100 MB.
_MAX_HEADER = 100 * 2**20
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
    """A linear layer inside the decoder: `module` is the last part of its name, as target_modules wants it."""

    module: str
    out_features: int
    in_features: int

    @property
    def elements(self) -> int:
        return self.out_features * self.in_features


@dataclass(frozen=True)
class ModelShape:
    """A model's architecture as the estimate needs it."""

    name: str
    config: dict[str, Any]
    tensors: list[Tensor] = field(repr=False)

    @cached_property
    def parameters(self) -> int:
        """All parameters; tied ones count once, as they are stored."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def linears(self) -> list[Linear]:
        """Every linear layer of the decoder blocks: what all-linear adapts and NF4 quantizes. lm_head is neither."""
        found = []
        for tensor in self.tensors:
            if len(tensor.shape) != 2 or not tensor.name.endswith(".weight") or not re.search(r"\.\d+\.", tensor.name):
                continue
            out_features, in_features = tensor.shape
            if self.architecture == "gpt2":
                out_features, in_features = in_features, out_features  # Conv1D stores its weight transposed
            found.append(Linear(tensor.name.split(".")[-2], out_features, in_features))
        return found

    @cached_property
    def modules(self) -> dict[str, int]:
        """Names of linear layers and how often each occurs."""
        return dict(Counter(linear.module for linear in self.linears))

    @property
    def architecture(self) -> str:
        return str(self.config.get("model_type", "unknown"))

    @property
    def dtype(self) -> str:
        """The type most parameters are stored in."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.dtype] += tensor.elements
        return sizes.most_common(1)[0][0] if sizes else ""

    def number(self, *names: str, default: int = 0) -> int:
        """The first of the named config entries that is a number (architectures differ in their spelling)."""
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
        return self.number("num_key_value_heads", default=self.heads)

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
    """The shape of the model in `folder`; raises BadInput that says what the folder lacks and the remedy."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.")
    config = read_json(folder / "config.json")
    if config is None:
        raise BadInput(f"{folder} has no readable config.json, so it is no model folder.")
    if isinstance(config.get("text_config"), dict):
        config = {**config, **config["text_config"]}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern)]
        if pickles:
            raise BadInput(
                f"{folder.name} holds its weights as {pickles[0]}, a pickle: opening one can run foreign code, so it "
                "is refused. Get the model's safetensors version."
            )
        raise BadInput(f"{folder} has no weights: there is no .safetensors file in it.")
    _check_shards(folder)
    tensors = [tensor for path in files for tensor in read_header(path)]
    return ModelShape(folder.name, config, tensors)


def _check_shards(folder: Path) -> None:
    index = read_json(folder / "model.safetensors.index.json") or {}
    named = index.get("weight_map")
    for name in sorted(set(named.values())) if isinstance(named, dict) else []:
        if not (folder / str(name)).is_file():
            raise BadInput(f"{folder.name} is not whole: its index names {name}, and that file is missing.")


def read_header(path: Path) -> list[Tensor]:
    """The tensors of one safetensors file; raises BadInput when it is none or was cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise BadInput(f"{path.name} is not a safetensors file, whatever its name says.")
        try:
            header = json.loads(file.read(length))
            tensors = {name: told for name, told in header.items() if name != "__metadata__"}
            end = max((told["data_offsets"][1] for told in tensors.values()), default=0)
            found = [Tensor(name, tuple(told["shape"]), told["dtype"]) for name, told in tensors.items()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BadInput(f"{path.name} is not a safetensors file, whatever its name says.") from None
    if size < 8 + length + end:
        raise BadInput(f"{path.name} was cut short: it has {size:,} of {8 + length + end:,} bytes. Get it again.")
    return found


def stored_bytes(shape: ModelShape) -> int:
    """Bytes of the weights as they lie on disk."""
    return sum(tensor.elements * BYTES.get(tensor.dtype, 4) for tensor in shape.tensors)
