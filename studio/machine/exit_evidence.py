"""Evidence on a process that ended without an exit record: the kernel's counters and log.

All of it is short-lived (counters continue, logs are cut), so it is read once, right after the end.
"""

import re
import subprocess
import sys
from pathlib import Path

from studio.machine import ram

_CGROUPS = Path("/sys/fs/cgroup")
_KILLED = re.compile(r"\[\s*(\d+\.\d+)\].*[Kk]illed process (\d+)")


def oom_kills() -> int | None:
    """Number of processes killed by the kernel for lack of memory, in our control group or else on the whole machine.

    None if the system does not count them. Only the difference between two calls is meaningful.
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
    """Files that count kills, most specific first: control groups v2, v1, and the whole machine."""
    return [
        *((folder / "memory.events", "oom_kill") for folder in ram.groups("", _CGROUPS)),
        *((folder / "memory.oom_control", "oom_kill") for folder in ram.groups("memory", _CGROUPS / "memory")),
        (Path("/proc/vmstat"), "oom_kill"),
    ]


def named_by_kernel(pid: int, since: float, boot: float) -> bool:
    """Whether the kernel's log says that it killed this process for memory after `since`. boot: boot time.

    Times are seconds since the epoch. Also False if the log cannot be read.
    """
    if sys.platform != "linux":
        return False
    try:
        log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return any(int(match[2]) == pid and boot + float(match[1]) >= since - 5 for match in _KILLED.finditer(log))
