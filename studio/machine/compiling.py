"""Compiles what the fast path computes beside its products, and its attention, for this machine's processor
(engine/fast/native/*.cpp).

    found()      the compiler
    expected()   whether it will be of use
    begin()      before torch is imported: the compiler works beside that, some three seconds, once
    finished()   the library, or why there is none

Kept in the user's cache under what it was made of. Nobody needs a compiler: without one, or where anything fails, torch
computes the same, slower. What it does not do: load the library (engine/fast/kernels.py).
"""

import contextlib
import functools
import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from studio.machine import cpu

_FOLDER = Path(__file__).parents[1] / "engine" / "fast" / "native"
SOURCES, HEADERS = (_FOLDER / "kernels.cpp", _FOLDER / "attention.cpp"), (_FOLDER / "numbers.h", _FOLDER / "tiles.h")
COMPILERS = ("c++", "g++", "clang++")
# Sums stay in their order, but for those of which the source says otherwise; a product may be fused with its sum.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp", "-fPIC",
         "-shared")  # fmt: skip
PATIENCE = 60.0  # seconds
_NULL = subprocess.DEVNULL
TRIAL = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).trial()"


@dataclass(frozen=True, slots=True)
class Build:
    """library: where it is, or will be; compiler: at work on it, None where it was there already."""

    library: Path
    draft: Path
    compiler: subprocess.Popen[bytes] | None


def found() -> str | None:
    """The compiler, where there is one."""
    return next((path for path in map(shutil.which, COMPILERS) if path), None)


def expected() -> bool:
    """Whether attention will be compiled here, whatever it is to multiply: a compiler is there, and a processor whose
    products of bfloat16, if it has any, the source knows."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and found() is not None


@functools.cache
def start_compiling() -> Build | str:
    """Start compiling, if it has not been done; or why that cannot be."""
    if sys.platform != "linux":
        return "compiled on Linux alone"
    compiler = found()
    if compiler is None:
        return f"no C++ compiler ({COMPILERS[1]}) found"
    try:
        folder = _cache()
        files = [file.read_bytes() for file in (*SOURCES, *HEADERS)]
        made_of = (files, FLAGS, os.path.realpath(compiler), cpu.features())
        name = hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]
        library, draft = folder / f"{name}.so", folder / f"{name}.{secrets.token_hex(4)}"
        if library.is_file():
            return Build(library, draft, None)
        command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(draft)]
        return Build(library, draft, subprocess.Popen(command, stdin=_NULL, stdout=_NULL, stderr=_NULL))
    except (OSError, RuntimeError) as error:  # the latter from a user without a home
        return f"not compiled: {getattr(error, 'strerror', None) or error}"


@functools.cache
def finished() -> Path | str:
    """The compiled library, waited for; or why there is none."""
    build = start_compiling()
    if isinstance(build, str) or build.compiler is None:
        return build if isinstance(build, str) else build.library
    try:
        status = build.compiler.wait(PATIENCE)
        if status:
            return f"the C++ compiler failed with status {status}"
        # Elsewhere than here: what the processor does not know would end this worker, and every one after it.
        command = [sys.executable, "-I", "-S", "-c", TRIAL, str(build.draft)]
        tried = subprocess.run(command, timeout=PATIENCE, check=False, stdin=_NULL, stdout=_NULL, stderr=_NULL)
        if tried.returncode:
            return f"what the C++ compiler made does not run here (status {tried.returncode})"
        build.draft.replace(build.library)
    except subprocess.TimeoutExpired:
        build.compiler.kill()
        build.compiler.wait()
        return f"the C++ compiler was not done after {PATIENCE:.0f} s"
    except OSError as error:
        return f"not compiled: {error.strerror or error}"
    finally:
        with contextlib.suppress(OSError):
            build.draft.unlink(missing_ok=True)
    return build.library


def _cache() -> Path:
    """A folder in the user's cache that is the user's alone: what lies there is run."""
    given = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(given) if given else Path.home() / ".cache") / "lora-studio" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"others may write into {folder}")
    for left in folder.iterdir():  # by workers that ended before their compiler did
        if left.suffix != ".so" and time.time() - left.stat().st_mtime > 10 * PATIENCE:
            left.unlink(missing_ok=True)
    return folder
