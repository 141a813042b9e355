"""The random number generators: Python's, numpy's, torch's on the CPU and on every GPU.

What this does not do: seed them (transformers' set_seed does), or decide when their state is kept.
"""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from studio.rundir import read_json, write_json

NUMBERS, TENSORS = "rng.json", "rng.safetensors"


@dataclass(frozen=True, slots=True)
class RandomState:
    """All random number generators at one moment."""

    python: Any
    numpy: Any
    torch: dict[str, Any]

    @classmethod
    def now(cls) -> Self:
        import numpy
        import torch

        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
        return cls(random.getstate(), numpy.random.get_state(), states)

    def restore(self) -> None:
        """Put the generators back to this moment. A GPU that was not there then keeps its state."""
        import numpy
        import torch

        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        torch.set_rng_state(self.torch["cpu"])
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"cuda.{index}" in self.torch:
                torch.cuda.set_rng_state(self.torch[f"cuda.{index}"], index)

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        kind, keys, position, has_gauss, gauss = self.numpy
        write_json(
            folder / NUMBERS,
            {
                "python": self.python,
                "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
            },
        )
        save_file(self.torch, folder / TENSORS)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote into `folder`."""
        import numpy
        from safetensors.torch import load_file

        told = read_json(folder / NUMBERS) or {}
        version, keys, gauss = told["python"]
        kind, table, position, has_gauss, second = told["numpy"]
        return cls(
            (version, tuple(keys), gauss),
            (kind, numpy.array(table, dtype=numpy.uint32), position, has_gauss, second),
            load_file(folder / TENSORS),
        )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside, afterwards the generators are as before."""
    before = RandomState.now()
    try:
        yield
    finally:
        before.restore()
