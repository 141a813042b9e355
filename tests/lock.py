"""The lock, constraints.txt, beside what is installed. `python -m tests.lock` prints where they differ."""

import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT = "lora-studio"
# What an environment has before anything is installed into it.
GIVEN = {"pip", "setuptools", "wheel"}


def lines() -> list[str]:
    """The lock's lines, comments left out."""
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> list[Requirement]:
    return [Requirement(line) for line in lines()]


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def ranges() -> list[Requirement]:
    """What the project asks for itself, with every extra."""
    told = project()["project"]
    extras = [line for extra in told["optional-dependencies"].values() for line in extra]
    return [Requirement(line) for line in [*told["dependencies"], *extras]]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def other_versions() -> Iterator[str]:
    """Packages that are installed in another version than the lock's."""
    for pin in pins():
        found = installed(pin.name)
        if found and (pin.marker is None or pin.marker.evaluate()) and not pin.specifier.contains(found, True):
            yield f"{pin.name} {found}, locked {str(pin.specifier).removeprefix('==')}"


def needed() -> set[str]:
    """Names of what is installed because the project needs it, at however many removes."""
    todo, seen = ranges(), set[tuple[str, str]]()
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        for extra in ("", *asked.extras):
            if (name, extra) in seen or not installed(name):
                continue
            seen.add((name, extra))
            for line in requires(name) or ():
                one = Requirement(line)
                if one.marker is None or one.marker.evaluate({"extra": extra}):
                    todo.append(one)
    return {name for name, _ in seen}


def not_locked() -> Iterator[str]:
    """Packages that are installed and not in the lock."""
    known = {canonicalize_name(pin.name) for pin in pins()} | GIVEN | {PROJECT}
    for name in sorted({canonicalize_name(one.name) for one in distributions()} - known):
        yield f"{name} {version(name)}, not locked"


if __name__ == "__main__":
    print("\n".join([*other_versions(), *not_locked()]) or "Everything is as locked.")
