"""Weights put into 4 bits by the compiled kernel are those of bitsandbytes, to the bit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from studio.machine import compiling
from studio.recipe.fields import Quantization

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not compiling.found(), reason="no C++ compiler here"),
]


def _both(x: "Tensor", blocksize: int, kind: str, storage: Any) -> list[tuple["Tensor", "Tensor"]]:
    """Numbers and largest magnitudes: as the operation has them now, and as bitsandbytes' own code for any device."""
    import torch

    from studio.engine.fast.quantize import quantize_by_kernel

    assert quantize_by_kernel()
    operation = torch.ops.bitsandbytes.quantize_4bit.default
    anywhere = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    return [operation(x, blocksize, kind, storage), operation.redispatch(anywhere, x, blocksize, kind, storage)]


def _same(one: "Tensor", other: "Tensor") -> bool:
    import torch

    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("blocksize", [64, 4096])
def test_weights_of_any_type_and_number(kind: str, dtype: str, blocksize: int) -> None:
    import torch

    torch.manual_seed(0)
    for numbers in (19_200, 4096, 4097, 131, 64, 2, 1):
        x = (torch.randn(numbers) / 10).to(getattr(torch, dtype))
        if numbers > 128:
            x[:64], x[70] = 0.0, 1e-39  # a block of nothing, and a number below the smallest normal one
        mine, its = _both(x, blocksize, kind, torch.uint8)
        assert all(map(_same, mine, its)), numbers


def test_weights_at_the_edges_and_kept_as_other_types() -> None:
    import torch
    from bitsandbytes.functional import get_4bit_type

    values = get_4bit_type("nf4", device="cpu")
    between = (values[:-1] + values[1:]) / 2  # as near to one as to the other
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e-40, -0.0])
    weights = torch.randn(64, 128)
    for x, storage in (
        (torch.cat([between, values, -between, torch.ones(1)]), torch.uint8),
        (torch.cat([torch.randn(59), odd]), torch.uint8),
        (torch.full((64,), 1e-40), torch.uint8),
        (weights.bfloat16(), torch.bfloat16),
        (weights.t(), torch.float32),
    ):
        mine, its = _both(x, 64, "nf4", storage)
        assert all(map(_same, mine, its))


def test_a_model_is_loaded_by_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.engine.fast.kernels import Kernels
    from studio.engine.inference import loading

    called: list[tuple[int, ...]] = []
    kernel = Kernels.quantize_4bit

    def counted(self: Kernels, x: "Tensor", *how: Any) -> tuple["Tensor", "Tensor"]:
        called.append(tuple(x.shape))
        return kernel(self, x, *how)

    monkeypatch.setattr(Kernels, "quantize_4bit", counted)
    model = loading.load_base(tiny, "float32", loading.Device("cpu", "CPU"), Quantization(quantization="nf4"))
    held = [one.weight for one in model.modules() if type(one).__name__ == "Linear4bit"]
    assert len(called) == len(held) > 0
