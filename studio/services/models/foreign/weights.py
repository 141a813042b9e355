"""Foreign weight files, recognised by their contents, not their names.

The header of a safetensors file must follow the format to the last byte (https://github.com/huggingface/safetensors):
its length is bounded, it is JSON without duplicate names, every type is known, every tensor is inside the file, and the
tensors fill it without gaps or overlaps. The weights themselves are not read, and nothing is ever unpickled.
"""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from studio.errors import BadInput
from studio.memory.shapes import BYTES, Tensor

LONGEST_HEADER = 64 * 2**20
_MOST_TENSORS = 200_000
_MOST_DIMENSIONS = 8
# Types in which adapters and models are trained and merged; reading others would need another library.
_WEIGHTS = ("F32", "F16", "BF16")
_STARTS = {
    b"\x80": "a pickle: opening one can run foreign code",
    b"PK": "a zip or a pickle of PyTorch's, which can run foreign code",
    b"\x1f\x8b": "a compressed archive",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a pointer of Git LFS and not the weights themselves",
    b"<": "a web page or XML",
    b"#!": "a script",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}


def read(path: Path, name: str = "") -> list[Tensor]:
    """The tensors of a safetensors file; raises BadInput that says why it is not one."""
    name = name or path.name
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        _refuse_other_formats(start, name)
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= length <= size - 8:
            raise BadInput(f"{name} is not a safetensors file: the length of its header, {length:,} bytes, is not "
                           f"inside the file of {size:,}. Get the file again.")  # fmt: skip
        if length > LONGEST_HEADER:
            raise BadInput(
                f"The header of {name} takes {length:,} bytes; {LONGEST_HEADER:,} are allowed. It is refused."
            )
        file.seek(8)
        text = file.read(length)
    header = _parsed(text, name)
    return _tensors(header, size - 8 - length, name)


def _refuse_other_formats(start: bytes, name: str) -> None:
    """Raise BadInput that names the format if the first bytes are those of another one.

    The length of a safetensors header may begin with any bytes, but it ends with a zero, and a brace follows.
    """
    if len(start) > 8 and start[7] == 0 and start[8:9] == b"{":
        return
    for begin, what in _STARTS.items():
        if start.startswith(begin):
            raise BadInput(f"{name} is {what}, despite its name. Provide the weights as safetensors.")


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    if text[:1] != b"{":
        raise BadInput(f"{name} is not a safetensors file: its header does not begin with a brace. Get the file again.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            raise BadInput(f"The header of {name} names something twice. Save the weights again with safetensors.")
        return mapping

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise BadInput(f"{name} is not a safetensors file: its header is not JSON. Get the file again.") from None
    if not isinstance(header, dict):
        raise BadInput(f"{name} is not a safetensors file: its header is not a mapping. Get the file again.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadInput(f"The metadata in {name} contains more than texts. Save the weights again with safetensors.")
    if not header:
        raise BadInput(f"{name} contains no tensors. Save the adapter or model again.")
    if len(header) > _MOST_TENSORS:
        raise BadInput(f"{name} names {len(header):,} tensors; {_MOST_TENSORS:,} are allowed. It is refused.")
    return header


def _tensors(header: dict[str, Any], size: int, name: str) -> list[Tensor]:
    tensors: list[Tensor] = []
    ranges: list[tuple[int, int, str]] = []
    for tensor, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise BadInput(
                f"The header of {name} does not describe the tensor {_short(tensor)} as safetensors does. "
                "Get the file again."
            )
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in BYTES:
            raise BadInput(f"The tensor {_short(tensor)} in {name} is of the unknown type {_short(dtype)}.")
        if not _whole(shape) or len(shape) > _MOST_DIMENSIONS:
            raise BadInput(f"The tensor {_short(tensor)} in {name} has the odd shape {_short(shape)}. It is refused.")
        if not _whole(offsets) or len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1] <= size:
            raise BadInput(f"The tensor {_short(tensor)} is outside the file {name}. The file is truncated or damaged.")
        if prod(shape) * BYTES[dtype] != offsets[1] - offsets[0]:
            raise BadInput(
                f"The tensor {_short(tensor)} in {name} does not have the number of bytes that its shape needs."
            )
        tensors.append(Tensor(tensor, tuple(shape), dtype))
        ranges.append((offsets[0], offsets[1], tensor))
    reached = 0
    for begin, end, tensor in sorted(ranges):
        if begin != reached:
            how = "overlaps another" if begin < reached else "leaves a gap before it"
            raise BadInput(f"The tensor {_short(tensor)} in {name} {how}: the file hides something or is damaged.")
        reached = end
    if reached != size:
        raise BadInput(f"{name} has {size - reached:,} bytes after its last tensor: it hides something or is damaged.")
    return tensors


def check_types(tensors: list[Tensor], name: str) -> None:
    """Raise BadInput unless every tensor has a type that the studio loads weights in."""
    other = next((tensor for tensor in tensors if tensor.dtype not in _WEIGHTS), None)
    if other is not None:
        raise BadInput(
            f"{_short(other.name)} in {name} is of type {other.dtype}. Adapters and models are accepted in "
            f"{', '.join(_WEIGHTS)}: save it in one of them."
        )


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"
