"""Finds which weights of an artefact are not what they should be, once it is known that it answers otherwise.

Slow and thorough: everything is made anew and held against what lies on disk, tensor by tensor.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.engine.artefacts.request import Order
from studio.engine.inference import loading

# Of a tensor's own size. Making it anew gives the same numbers, so anything above rounding is damage.
_ROUNDING = 1e-3
_FEW = 3


def of_adapter(order: Order, folder: Path) -> str:
    """What differs between the exported adapter's weights and the run's."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    return _said(_apart(load_file(order.source / name), load_file(folder / name)))


def of_merged(order: Order, folder: Path, device: loading.Device) -> str:
    """What differs between a merged model's weights and a merge made anew."""
    from safetensors import safe_open

    from studio.engine.artefacts.merge import merged_model

    model = merged_model(order, device, lambda _: None)
    expected = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    del model
    gc.collect()
    return _said(_apart(expected, found))


def _apart(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[float, str]]:
    """How far tensors are apart, as a share of their size, the worst first; those within rounding are left out."""
    apart = []
    for name, wanted in expected.items():
        if name not in found:
            continue  # tied weights are written once
        one, two = wanted.float(), found[name].float()
        share = float((one - two).norm() / (one.norm() + 1e-12)) if one.shape == two.shape else 1.0
        if not share <= _ROUNDING:
            apart.append((share, name))
    return sorted(apart, reverse=True)


def _said(apart: list[tuple[float, str]]) -> str:
    if not apart:
        return (
            "Every tensor is what it should be, so the type it is held in rounds too much away: choose float32, or "
            "export the adapter."
        )
    names = ", ".join(f"{name} (by {share:.0%})" for share, name in apart[:_FEW])
    more = f" and {len(apart) - _FEW} more" if len(apart) > _FEW else ""
    return f"The weights differ from what was trained: {names}{more}. Export it again; if it stays so, report this."
