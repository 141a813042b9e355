"""Save nested states, such as an optimizer's, as `.safetensors` (tensors) and `.json` (the rest), without pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.rundir import read_json, write_json

MARK = "tensor"


def write_tree(tree: Mapping[str, Any], path: Path) -> None:
    """Write a nested state; in the JSON, the tensor's name takes its place."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    write_json(path.with_suffix(".json"), _split(tree, "", tensors))
    save_file(tensors, path.with_suffix(".safetensors"))


def read_tree(path: Path) -> dict[str, Any]:
    """Read what `write_tree` wrote. Keys are returned as text, tuples as lists."""
    from safetensors.torch import load_file

    tensors = load_file(path.with_suffix(".safetensors"))
    tree: dict[str, Any] = _join(read_json(path.with_suffix(".json")) or {}, tensors)
    return tree


def _split(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        # Copy: 8-bit optimizers share tables between parameters, and safetensors refuses shared storage.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {MARK: name}
    if isinstance(value, Mapping):
        return {str(key): _split(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and value.get(MARK) in tensors:
        return tensors[value[MARK]]
    return {key: _join(item, tensors) for key, item in value.items()}
