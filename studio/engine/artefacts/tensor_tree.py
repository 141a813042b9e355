"""Nested states (an optimizer's, say) as two files: `.safetensors` for the tensors, `.json` for the rest. No pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.rundir import read_json, write_json

MARK = "tensor"


def write_tree(tree: Mapping[str, Any], path: Path) -> None:
    """Write a nested state; the JSON names the tensors where they stood."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    write_json(path.with_suffix(".json"), _split(tree, "", tensors))
    save_file(tensors, path.with_suffix(".safetensors"))


def read_tree(path: Path) -> dict[str, Any]:
    """What `write_tree` wrote. Keys come back as text, tuples as lists."""
    from safetensors.torch import load_file

    tensors = load_file(path.with_suffix(".safetensors"))
    joined: dict[str, Any] = _join(read_json(path.with_suffix(".json")) or {}, tensors)
    return joined


def _split(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        # A copy of its own: 8-bit optimizers share tables between parameters, safetensors refuses shared storage.
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
