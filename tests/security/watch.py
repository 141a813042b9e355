"""What Python says to its auditors: which files are opened, which addresses are asked, what is started."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_FILES = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree",
          "shutil.move", "shutil.copyfile", "os.chmod", "os.truncate", "os.symlink", "os.link")  # fmt: skip
# How much of the machine, or of its container, is in use, which the keeper looks at.
_MACHINE = re.compile(
    r"/proc/(meminfo|stat|self/cgroup)"
    r"|/sys/fs/cgroup/((?!\.\.)[^/]+/)*memory\.(max|current|stat|limit_in_bytes|usage_in_bytes)"
)
_watching: list["Seen"] = []
_hooked = threading.Event()


class Seen:
    """Paths that were touched, addresses that were asked, commands that were started, names that were resolved."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.asked: list[str] = []
        self.started: list[str] = []

    def beyond(self, *roots: Path) -> set[str]:
        """Of the files those that lie in none of these folders, by where they really are."""
        inside = tuple(os.path.realpath(root) for root in roots)
        told = {path for path in self.files if not _MACHINE.fullmatch(path)}
        return {path for path in told if not os.path.realpath(path).startswith(inside)}


def _heard(event: str, values: tuple[object, ...]) -> None:
    if not _watching:
        return
    for seen in list(_watching):
        if event in _FILES:
            paths = values[:1] if event == "open" else values[:2]  # open tells its mode besides
            seen.files.update(os.fsdecode(path) for path in paths if isinstance(path, str | bytes) and path)
        elif event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
            seen.asked.append(f"{event} {values[1:] if event == 'socket.connect' else values}")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "pickle.find_class"):
            seen.started.append(f"{event} {values}")


@contextlib.contextmanager
def watched() -> Iterator[Seen]:
    """What this process does in the block, in all of its threads."""
    if not _hooked.is_set():
        sys.addaudithook(_heard)  # for ever: it listens only while somebody watches
        _hooked.set()
    seen = Seen()
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)
