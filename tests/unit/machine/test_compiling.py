"""What is compiled for the fast path: once, kept, and done without where it cannot be."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.machine import compiling

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A user's cache of its own, and nothing remembered of what this process found before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield
    forget()


def forget() -> None:
    compiling.start_compiling.cache_clear()
    compiling.finished.cache_clear()


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that does this and nothing else."""
    folder.mkdir()
    compiler = folder / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "lora-studio" / "kernels").glob("*"))


def test_it_is_compiled_once(tmp_path: Path) -> None:
    if not compiling.found():
        pytest.skip("no C++ compiler here")
    first = compiling.finished()
    assert isinstance(first, Path) and kept(tmp_path) == [first]
    forget()
    again = compiling.start_compiling()
    assert isinstance(again, compiling.Build) and again.compiler is None
    assert compiling.finished() == first


def test_without_a_compiler_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiling.finished() == "no C++ compiler (g++) found"


@pytest.mark.parametrize(("script", "why"), [
    ('echo half > "$(echo "$*" | sed "s/.* //")"; exit 3', "the C++ compiler failed with status 3"),
    ("exit 0", "the compiled library does not run here (status 1)"),
    ('echo half > "$(echo "$*" | sed "s/.* //")"', "the compiled library does not run here (status 1)"),
])  # fmt: skip
def test_a_compiler_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    stand_in(tmp_path / "bin", script, monkeypatch)
    assert compiling.finished() == why
    assert kept(tmp_path) == []


def test_a_compiler_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", "exec sleep 600", monkeypatch)
    monkeypatch.setattr(compiling, "PATIENCE", 0.01)
    build = compiling.start_compiling()
    assert "did not finish" in str(compiling.finished())
    assert isinstance(build, compiling.Build) and build.compiler and build.compiler.poll() is not None


def test_nothing_is_loaded_from_where_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "lora-studio" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert compiling.finished() == f"not compiled: others may write into {folder}"


def test_what_a_processor_does_not_know_ends_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiling.found()
    if not real:
        pytest.skip("no C++ compiler here")
    unknown = 'extern "C" void trial() { __builtin_trap(); }'
    stand_in(tmp_path / "bin", f"echo '{unknown}' | {real} -xc++ -shared -fPIC - -o \"${{@: -1}}\"", monkeypatch)
    (tmp_path / "bin" / "c++").write_text((tmp_path / "bin" / "c++").read_text().replace("/bin/sh", "/bin/bash"))
    assert compiling.finished() == "the compiled library does not run here (status -4)"
    assert kept(tmp_path) == []


def test_what_an_ended_worker_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", "exit 3", monkeypatch)
    compiling.finished()
    left = tmp_path / "lora-studio" / "kernels" / "name.1234"
    left.touch()
    forget()
    compiling.finished()
    assert kept(tmp_path) == [left]  # its compiler may be at work
    os.utime(left, (0, 0))
    forget()
    compiling.finished()
    assert kept(tmp_path) == []


@pytest.mark.engine
def test_a_damaged_library_is_not_loaded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.engine.fast import kernels

    stand_in(tmp_path / "bin", "exit 3", monkeypatch)
    build = compiling.start_compiling()
    assert isinstance(build, compiling.Build)
    build.library.write_text("half")
    forget()
    kernels.kernels.cache_clear()
    try:
        by, why = kernels.kernels()
    finally:
        kernels.kernels.cache_clear()
    assert type(by) is kernels.Arithmetic and why.startswith("not loaded")
    assert kept(tmp_path) == []
