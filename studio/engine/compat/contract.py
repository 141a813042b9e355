"""What the engine takes for granted of a library, and the sentence that says what breaks when it no longer holds.

What it does not do: import a library before it is asked whether a name holds.
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
    """A name of a library.

    path: dotted, from the library on; lost: what happens without it, as the end of a sentence; takes: parameters that
    it must have; holds: what else must be true of it, called with what stands under the name.
    """

    path: str
    lost: str
    takes: tuple[str, ...] = ()
    holds: Callable[[Any], bool] | None = None

    @property
    def library(self) -> str:
        return self.path.partition(".")[0]

    def fault(self) -> str:
        """What is no longer so, in one sentence; empty while all is well."""
        try:
            found = pkgutil.resolve_name(self.path)
        except (ImportError, AttributeError):
            return self.sentence("is gone")
        if missing := [name for name in self.takes if name not in _parameters(found)]:
            return self.sentence(f"no longer takes {', '.join(missing)}")
        return self.sentence("is no longer what it was") if self.holds and not _true(self.holds, found) else ""

    def sentence(self, what: str) -> str:
        """What happened to the name, what that does, and where to mend it."""
        short = self.path.partition(".")[2]
        room = f"studio/engine/compat/{self.library}.py"
        return f"{self.library} {_version(self.library)}: {short} {what}: {self.lost} ({room})"


@dataclass(frozen=True, slots=True)
class OfTrainer(Name):
    """Something that a trainer has only once it has trained; `holds` is called with an SFTTrainer that has."""

    def fault_in(self, trainer: Any) -> str:
        """What is no longer so of this trainer, in one sentence; empty while all is well."""
        assert self.holds is not None
        return "" if _true(self.holds, trainer) else self.sentence("is gone, or no longer what it was")

    def fault(self) -> str:
        """Without a trainer there is nothing to say."""
        return ""


def require(*names: Name) -> None:
    """Raise Unavailable with the first of these names that no longer holds."""
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
    except Exception:  # whatever it is: it does not hold
        return False


def _version(library: str) -> str:
    try:
        return version(library.replace("_", "-"))
    except PackageNotFoundError:
        return "(unknown version)"
