"""Has a say in what a library does as soon as one of its modules is imported."""

from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Watch:
    """Calls `then` with a module as soon as it is there: its package uses it before anyone else can see it.

    To stand first in sys.meta_path for as long as the module may be imported.
    """

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Any = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self._name else None
        if spec is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                del loader.exec_module  # the loader's own again
                run(module)
                self._then(module)

            loader.exec_module = exec_module
        return spec
