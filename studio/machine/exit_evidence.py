"""What the system tells of a process that ended without a word: the kernel's counts and its log.

All of it fades (a count goes on, a log is cut), so it is asked once, right after the end.
"""

import re
import subprocess
import sys
from pathlib import Path

from studio.machine import ram

_CGROUPS = Path("/sys/fs/cgroup")
_KILLED = re.compile(r"\[\s*(\d+\.\d+)\].*[Kk]illed process (\d+)")


def oom_kills() -> int | None:
    """How many processes the kernel has ended for lack of memory: in our control group, else on the whole machine.

    None where the system does not count. Only the growth between two looks means anything.
    """
    for path, name in _counters():
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == name and value.strip().isdigit():
                return int(value)
    return None


def _counters() -> list[tuple[Path, str]]:
    """Files that count kills, the nearest to us first: control groups v2, v1, and the machine's."""
    return [
        *((folder / "memory.events", "oom_kill") for folder in ram.groups("", _CGROUPS)),
        *((folder / "memory.oom_control", "oom_kill") for folder in ram.groups("memory", _CGROUPS / "memory")),
        (Path("/proc/vmstat"), "oom_kill"),
    ]


def named_by_kernel(pid: int, since: float, boot: float) -> bool:
    """Whether the kernel's log says that it ended this process for memory, after `since`; boot: when it booted.

    Times are seconds since the epoch. False as well where we may not read that log.
    """
    if sys.platform != "linux":
        return False
    try:
        log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return any(int(found[2]) == pid and boot + float(found[1]) >= since - 5 for found in _KILLED.finditer(log))
