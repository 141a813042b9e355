"""Compile the fast path's native kernels and attention (engine/fast/native/*.cpp) for this machine's processor.

    found()            the compiler
    expected()         whether compiled attention will be used
    start_compiling()  called before torch is imported: the compiler runs in parallel, about three seconds, once
    finished()         the library, or the reason why there is none

The library is cached in the user's cache folder under a hash of its inputs. A compiler is optional: without one, or if
anything fails, torch computes the same, more slowly. The library is loaded in engine/fast/kernels.py.
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
# Sums keep their order, except where the source allows otherwise; a product may be fused with its sum.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp", "-fPIC",
         "-shared")  # fmt: skip
PATIENCE = 60.0  # seconds
_NULL = subprocess.DEVNULL
TRIAL = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).trial()"


@dataclass(frozen=True, slots=True)
class Build:
    """A build in progress. library: its final path; compiler: the process, None if the library was cached."""

    library: Path
    draft: Path
    compiler: subprocess.Popen[bytes] | None


def found() -> str | None:
    """Path of the compiler, if there is one."""
    return next((path for path in map(shutil.which, COMPILERS) if path), None)


def expected() -> bool:
    """Whether attention will be compiled here, for any type: there is a compiler, and a processor whose bfloat16
    products, if any, the source supports."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and found() is not None


@functools.cache
def start_compiling() -> Build | str:
    """Start compiling unless the library is cached; returns the reason if that is not possible."""
    if sys.platform != "linux":
        return "only compiled on Linux"
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
    except (OSError, RuntimeError) as error:  # the latter if the user has no home directory
        return f"not compiled: {getattr(error, 'strerror', None) or error}"


@functools.cache
def finished() -> Path | str:
    """Wait for the compiled library; returns its path, or the reason why there is none."""
    build = start_compiling()
    if isinstance(build, str) or build.compiler is None:
        return build if isinstance(build, str) else build.library
    try:
        status = build.compiler.wait(PATIENCE)
        if status:
            return f"the C++ compiler failed with status {status}"
        # In a separate process: an unsupported instruction would end this worker, and every one after it.
        command = [sys.executable, "-I", "-S", "-c", TRIAL, str(build.draft)]
        tried = subprocess.run(command, timeout=PATIENCE, check=False, stdin=_NULL, stdout=_NULL, stderr=_NULL)
        if tried.returncode:
            return f"the compiled library does not run here (status {tried.returncode})"
        build.draft.replace(build.library)
    except subprocess.TimeoutExpired:
        build.compiler.kill()
        build.compiler.wait()
        return f"the C++ compiler did not finish within {PATIENCE:.0f} s"
    except OSError as error:
        return f"not compiled: {error.strerror or error}"
    finally:
        with contextlib.suppress(OSError):
            build.draft.unlink(missing_ok=True)
    return build.library


def _cache() -> Path:
    """Folder in the user's cache that only the user can write to, since its content is executed."""
    given = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(given) if given else Path.home() / ".cache") / "lora-studio" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"others may write into {folder}")
    for left in folder.iterdir():  # leftovers of workers that ended before their compiler did
        if left.suffix != ".so" and time.time() - left.stat().st_mtime > 10 * PATIENCE:
            left.unlink(missing_ok=True)
    return folder
