"""Find the damaged weights of an artefact that failed the parity check.

Slow and thorough: recomputes all weights and compares them with the files on disk, tensor by tensor.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.engine.artefacts.request import Order
from studio.engine.inference import loading

# Share of a tensor's norm. Recomputing gives the same numbers, so any difference above rounding is damage.
_ROUNDING = 1e-3
_FEW = 3


def of_adapter(order: Order, folder: Path) -> str:
    """Describe the differences between the exported adapter's weights and the run's."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    return _message(_differences(load_file(order.source / name), load_file(folder / name)))


def of_merged(order: Order, folder: Path, device: loading.Device) -> str:
    """Describe the differences between a merged model's weights and a new merge."""
    from safetensors import safe_open

    from studio.engine.artefacts.merge import merged_model

    model = merged_model(order, device, lambda _: None)
    expected = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    actual: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            actual |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a mapping
    del model
    gc.collect()
    return _message(_differences(expected, actual))


def _differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Differences of tensors as a share of their norm, largest first; those within rounding are left out."""
    differences = []
    for name, tensor in expected.items():
        if name not in actual:
            continue  # tied weights are written once
        first, second = tensor.float(), actual[name].float()
        share = float((first - second).norm() / (first.norm() + 1e-12)) if first.shape == second.shape else 1.0
        if not share <= _ROUNDING:
            differences.append((share, name))
    return sorted(differences, reverse=True)


def _message(differences: list[tuple[float, str]]) -> str:
    if not differences:
        return "All tensors are as expected: the dtype itself loses too much. Choose float32, or export the adapter."
    names = ", ".join(f"{name} (by {share:.0%})" for share, name in differences[:_FEW])
    more = f" and {len(differences) - _FEW} more" if len(differences) > _FEW else ""
    return f"The weights differ from what was trained: {names}{more}. Export again; if this recurs, report it."
