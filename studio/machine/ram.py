"""Memory available to the studio: the machine's or, in a container with a limit, the container's."""

from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_WHOLE = 2**60  # bytes; a limit this high means no limit


@dataclass(frozen=True, slots=True)
class Ram:
    """Bytes at one moment. used: by all processes, without memory the system can reclaim (file cache)."""

    total: int
    used: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """File names and root of one version of control groups (v2 or v1)."""

    controller: str
    root: Path
    bound: str
    taken: str
    given_up: str


def look() -> Ram:
    """Current memory."""
    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for kind, folder in _ours():
        bound = _number(folder / kind.bound)
        if bound is not None and bound < total:
            taken = (_number(folder / kind.taken) or 0) - _given_up(folder, kind)
            return Ram(bound, bound - max(0, min(free, bound - taken)))
    return Ram(total, total - free)


def groups(controller: str, root: Path) -> list[Path]:
    """The control group of this process below `root`, and the root itself, in case only our own group is visible."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    ours = [line.split(":", 2)[2].lstrip("/") for line in lines if line.split(":", 2)[1] == controller]
    return [folder for name in ours for folder in dict.fromkeys((root / name, root))]


def _ours() -> list[tuple[_Kind, Path]]:
    second = _Kind("", _CGROUPS, "memory.max", "memory.current", "inactive_file")
    first = _Kind(
        "memory", _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )
    return [(kind, folder) for kind in (second, first) for folder in groups(kind.controller, kind.root)]


def _number(path: Path) -> int | None:
    """The number in a file; None if there is no file, or it says `max`."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _WHOLE else None


def _given_up(folder: Path, kind: _Kind) -> int:
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == kind.given_up), 0)
