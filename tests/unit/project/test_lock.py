"""Upgrades come when they are asked for: every range ends, and the lock pins all that the project needs."""

import os
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import lock
from tests.conftest import REPOSITORY

by_the_lock = pytest.mark.skipif(os.environ.get("STUDIO_LATEST") == "1", reason="make latest installs without the lock")


def test_every_range_ends() -> None:
    build = [Requirement(line) for line in lock.project()["build-system"]["requires"]]
    for asked in [*build, *lock.ranges()]:
        assert {"<", "<=", "=="} & {one.operator for one in asked.specifier}, f"{asked} has no upper bound"


def test_every_range_holds_its_pin() -> None:
    pinned: dict[str, list[Requirement]] = {}
    for pin in lock.pins():
        pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
    for asked in lock.ranges():
        found = pinned.get(canonicalize_name(asked.name))
        assert found, f"{asked.name} is not locked; make lock"
        for pin in found:
            (one,) = pin.specifier
            assert asked.specifier.contains(one.version, True), f"{pin} is outside {asked}; make lock"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("system", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]
)
def test_no_machine_is_given_two_versions_of_one(python: str, system: str, machine: str) -> None:
    there = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": system,
             "platform_machine": machine}  # fmt: skip
    names = [pin.name for pin in lock.pins() if pin.marker is None or pin.marker.evaluate(there)]
    assert len(names) == len(set(names))
    assert {canonicalize_name(asked.name) for asked in lock.ranges()} <= set(names)


def test_the_lock_names_versions_and_no_place() -> None:
    first = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("#") and "make lock" in first
    for line in lock.lines():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*( ; [^/:@#]+)?", line), line


@by_the_lock
def test_what_is_installed_is_what_is_locked() -> None:
    assert list(lock.other_versions()) == []


@by_the_lock
def test_everything_that_is_needed_is_locked() -> None:
    needed = lock.needed()
    assert {"torch", "starlette", "markupsafe"} <= needed
    assert needed - {canonicalize_name(pin.name) for pin in lock.pins()} == set()
