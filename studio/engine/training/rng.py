"""Save and restore the random number generators of Python, numpy and torch (CPU and every GPU).

transformers' set_seed seeds them.
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
    """The state of all random number generators."""

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
        """Restore the generators. A GPU without a saved state keeps its current one."""
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
        """Read what `write` wrote to `folder`."""
        import numpy
        from safetensors.torch import load_file

        numbers = read_json(folder / NUMBERS) or {}
        version, keys, gauss = numbers["python"]
        kind, table, position, has_gauss, second = numbers["numpy"]
        return cls(
            (version, tuple(keys), gauss),
            (kind, numpy.array(table, dtype=numpy.uint32), position, has_gauss, second),
            load_file(folder / TENSORS),
        )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the random state when the context ends."""
    before = RandomState.now()
    try:
        yield
    finally:
        before.restore()
