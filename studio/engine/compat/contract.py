"""Assumptions of the engine about a library, each with a sentence on what breaks without it.

A library is imported only when one of its names is checked.
"""

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from studio.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Name:
    """A name of a library that the engine relies on.

    path: dotted path, starting with the library; lost: what happens without it, as the end of a sentence; takes:
    parameters it must have; holds: a further check, called with the named object.
    """

    path: str
    lost: str
    takes: tuple[str, ...] = ()
    holds: Callable[[Any], bool] | None = None

    @property
    def library(self) -> str:
        return self.path.partition(".")[0]

    def fault(self) -> str:
        """What no longer holds, in one sentence; empty if everything does."""
        try:
            target = pkgutil.resolve_name(self.path)
        except (ImportError, AttributeError):
            return self.sentence("is gone")
        if missing := [name for name in self.takes if name not in _parameters(target)]:
            return self.sentence(f"no longer takes {', '.join(missing)}")
        return self.sentence("has changed") if self.holds and not _true(self.holds, target) else ""

    def sentence(self, what: str) -> str:
        """Return a sentence with what happened to the name, the effect and the file to fix."""
        short = self.path.partition(".")[2]
        module = f"studio/engine/compat/{self.library}.py"
        return f"{self.library} {_version(self.library)}: {short} {what}: {self.lost} ({module})"


@dataclass(frozen=True, slots=True)
class OfTrainer(Name):
    """A name that a trainer has only after training; `holds` is called with an SFTTrainer that has trained."""

    def fault_in(self, trainer: Any) -> str:
        """What no longer holds for this trainer, in one sentence; empty if everything does."""
        assert self.holds is not None
        return "" if _true(self.holds, trainer) else self.sentence("is gone or has changed")

    def fault(self) -> str:
        """Empty: the check needs a trainer, see `fault_in`."""
        return ""


def require(*names: Name) -> None:
    """Raise Unavailable for the first of these names that fails its check."""
    for fault in (name.fault() for name in names):
        if fault:
            raise Unavailable(fault)


def installed(library: str) -> bool:
    return find_spec(library) is not None


def _parameters(thing: Any) -> set[str]:
    try:
        return set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()


def _true(holds: Callable[[Any], bool], thing: Any) -> bool:
    try:
        return bool(holds(thing))
    except Exception:  # any error means that the check fails
        return False


def _version(library: str) -> str:
    try:
        return version(library.replace("_", "-"))
    except PackageNotFoundError:
        return "(unknown version)"
