"""The run directory: the only thing the studio and a worker share.

    recipe.yaml          in; immutable once started
    dataset.json         in; pointer to the immutable dataset and its sha256
    about.json           in; what a person says of it: name, notes, tags, owner; its place in the queue
    control/             in; files named stop, cancel, checkpoint: touched by anyone, consumed by the worker
    resume.json          in; what a worker that goes on is told: attempt, checkpoint, how far
    attempts/N/          what earlier workers left: their claim, worker, heartbeat, exit and ended
    events.jsonl         out; append-only journal, one JSON object a line: seq, time, kind, payload, crc; one writer
    heartbeat            out; rewritten every few seconds (alive is not progressing)
    worker.json          out; pid, start time, boot id, host, nonce, library versions, device
    checkpoints/step-N/  out; whole, with MANIFEST.json, or not there
    adapter/             out; the same
    model/               out; the same, instead of adapter/ where every weight was trained
    log.txt              out; stdout and stderr
    exit.json            out; how it ended, in words a person understands
    ended.json           the studio's word on the end, from evidence that fades: signals, the kernel's counts

Order is by `seq`, never by clock. A torn last line is ignored by readers and overwritten by the next writer.
An export has a directory of the same make. This module knows files only (and, to tell one worker from another,
when a process began): no database, no torch, nothing is started or signalled here.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import psutil

from studio.errors import BadInput, StudioError

# The worker takes the first three. `start`: begin now, beside what runs; `killed`: the studio itself ended the worker.
Control = Literal["stop", "cancel", "checkpoint", "start", "killed"]
FinalState = Literal["completed", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run (or export) directory, and the small files in it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset.json"

    @property
    def about(self) -> Path:
        return self.path / "about.json"

    @property
    def resume(self) -> Path:
        """What a worker that goes on is told: resume.json, see engine/resume.py."""
        return self.path / "resume.json"

    @property
    def attempts(self) -> Path:
        """What earlier workers of this run left: attempts/1, attempts/2 …"""
        return self.path / "attempts"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def claim(self) -> Path:
        return self.path / "claim.json"

    @property
    def worker(self) -> Path:
        return self.path / "worker.json"

    @property
    def worker_lock(self) -> Path:
        return self.path / "worker.lock"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def trained(self) -> Path | None:
        """What the run learned: its adapter or, where every weight was trained, its model; None before it is whole."""
        return next((folder for folder in (self.adapter, self.model) if (folder / MANIFEST).is_file()), None)

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def ended(self) -> Path:
        """What the studio found out about the end of a worker, see services/ends.py."""
        return self.path / "ended.json"

    def ask(self, what: Control) -> None:
        """Leave a wish for the worker."""
        self.control.mkdir(exist_ok=True)
        (self.control / what).touch()

    def asked(self, what: Control) -> bool:
        return (self.control / what).exists()

    def consume(self, what: Control) -> bool:
        """Take the wish, if there is one: True to whoever took it."""
        try:
            (self.control / what).unlink()
        except FileNotFoundError:
            return False
        return True

    def log_tail(self, limit: int = 8_000) -> str:
        """The last `limit` bytes of the log as text, from a line's start; empty when there is none."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        # Progress bars rewrite their line with \r: keep what was last shown.
        text = "\n".join(line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n"))
        return text if size <= limit else text.partition("\n")[2]


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file whole: aside, flushed to disk, then renamed over."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_new_json(path: Path, value: Any) -> bool:
    """Write a small JSON file whole, unless there is one already: of many who try, True to one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    write_json(aside, value)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when the file is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None


# --- the journal ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal."""

    seq: int
    time: float
    kind: str
    payload: dict[str, Any]


def _crc(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _line(event: Event) -> bytes:
    body = json.dumps(
        {"seq": event.seq, "time": event.time, "kind": event.kind, "payload": event.payload},
        ensure_ascii=False,
        separators=(",", ":"),
        allow_nan=False,
    )
    return f'{body[:-1]},"crc":"{_crc(body)}"}}\n'.encode()


_TAIL = len(',"crc":"00000000"}')


def _parse_line(line: bytes) -> Event | None:
    """The event on a complete line, or None if the line is damaged."""
    try:
        text = line.decode()
        body, crc = text[:-_TAIL] + "}", text[-_TAIL + 8 : -2]
        if _crc(body) != crc:
            return None
        value = json.loads(body)
        return Event(value["seq"], value["time"], value["kind"], value["payload"])
    except (UnicodeDecodeError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """Events from one look at a journal, and the byte offset at which the next look begins."""

    events: list[Event]
    offset: int
    damaged: int = 0


def read_events(path: Path, offset: int = 0, limit: int | None = None) -> Reading:
    """Whole events from byte `offset` on. A last line without its end is left for the next look.

    A damaged line in the middle is passed over and counted. A file that became shorter than `offset`
    (a torn tail overwritten on resume) is read from its start: readers are idempotent on seq.
    """
    events: list[Event] = []
    damaged = 0
    try:
        with path.open("rb") as file:
            if offset > file.seek(0, os.SEEK_END):
                offset = 0
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                event = _parse_line(line[:-1])
                if event is None:
                    damaged += 1
                else:
                    events.append(event)
                if limit is not None and len(events) >= limit:
                    break
    except FileNotFoundError:
        return Reading([], 0)
    return Reading(events, offset, damaged)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite is written as its name."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return repr(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


class Journal:
    """The one writer of events.jsonl. Opening it cuts off a torn last line and continues its numbering."""

    def __init__(self, path: Path) -> None:
        self._path = path
        reading = read_events(path)
        self.seq = reading.events[-1].seq if reading.events else 0
        self._file = path.open("ab")
        self._file.truncate(reading.offset)

    def write(self, kind: str, *, sync: bool = False, **payload: Any) -> Event:
        """Append one event. When it returns the event survives a kill; with `sync`, a power cut too."""
        event = Event(self.seq + 1, time.time(), kind, _finite(payload))
        self._file.write(_line(event))
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())
        self.seq = event.seq
        return event

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- who works here, and how it ended ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is. All four must match for a process to be it."""

    pid: int
    started: float
    boot_id: str
    nonce: str
    host: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, run: RunDir) -> None:
        write_json(run.worker, asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.worker)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


def process_started(pid: int) -> float | None:
    """When the process with this pid began, seconds since the epoch; None when there is no such (living) process."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def boot_id() -> str:
    """Names this boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat: the worker was alive at `time`, and last progressed at `progress`."""

    time: float
    progress: float
    step: int

    def write(self, run: RunDir) -> None:
        aside = run.path / ".heartbeat.tmp"
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(run.heartbeat)

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.heartbeat)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


Cause = Literal[
    "", "finished", "stopped", "cancelled", "error", "memory", "disk", "nonfinite", "diverged", "unlearnable", "killed",
    "killed_for_memory", "rebooted", "never_started", "hung", "gone",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run ended: its state, a sentence for a person, and what to do next; cause tells ends of one state apart."""

    state: FinalState
    message: str
    remedy: str = ""
    time: float = field(default_factory=time.time)
    traceback: str = ""
    cause: Cause = ""

    def write(self, run: RunDir) -> None:
        write_json(run.exit, asdict(self))

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        value = read_json(run.exit)
        try:
            return cls(**value) if value else None
        except TypeError:
            return None


# --- whole folders ----------------------------------------------------------------------------------------------

MANIFEST = "MANIFEST.json"


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Write a folder whole or not at all: yields a folder aside; on success it gets a manifest and is renamed.

    A folder already at `final` is replaced only by a finished one.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        commit_folder(aside, final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def commit_folder(aside: Path, final: Path) -> None:
    """Give `aside` its manifest, flush all of it to disk and rename it to `final`."""
    files = {}
    for path in sorted(item for item in aside.rglob("*") if item.is_file() and item.name != MANIFEST):
        files[path.relative_to(aside).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
        _fsync(path)
    write_json(aside / MANIFEST, {"files": files})
    for folder in [item for item in aside.rglob("*") if item.is_dir()] + [aside]:
        _fsync(folder)
    old = None
    if final.exists():
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    aside.rename(final)
    _fsync(final.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Finish or undo what a writer of whole folders that was killed left in `parent`. Only where nobody writes now.

    A kill between the two renames of a replacement leaves nothing under the final name: then the finished new folder
    takes its place, or else the old one again. Half-written folders and files are deleted.
    """
    leftovers = [path for path in parent.glob(".*") if path.suffix in (".tmp", ".old", ".new")]
    for path in sorted(leftovers, key=lambda path: path.suffix == ".old"):
        final = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path.is_dir() and path.name.count(".") >= 3 and not final.exists() and verify_folder(path) is None:
            path.rename(final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith((".about.", ".resume.")):  # those are the studio's, at any time
            path.unlink(missing_ok=True)


def verify_folder(folder: Path, tick: Callable[[], None] | None = None) -> str | None:
    """None when every file matches the manifest, else a sentence saying what does not."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return f"{folder.name} has no readable {MANIFEST}."
    for name, told in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{folder.name}: the file {name} is missing."
        if path.stat().st_size != told["size"] or sha256(path) != told["sha256"]:
            return f"{folder.name}: the file {name} is damaged."
        if tick is not None:
            tick()
    return None


def newest_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint whose files all match its manifest."""
    found = []
    for path in run.checkpoints.glob("step-*"):
        with contextlib.suppress(ValueError):
            found.append((int(path.name.removeprefix("step-")), path))
    for _, path in sorted(found, reverse=True):
        if verify_folder(path) is None:
            return path
    return None


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some file systems refuse to flush a folder; the rename is then as safe as they make it.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def free_space_or_raise(folder: Path, need: int, what: str) -> None:
    """Raise StudioError when the disk of `folder` has less than `need` bytes for `what`."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise StudioError(
            f"{what} needs {need / 2**30:.1f} GiB and the disk of {folder} has {free / 2**30:.1f} GiB free. "
            "Free some space or move STUDIO_HOME to a larger disk."
        )


def create(root: Path, run_id: str, files: Mapping[str, str]) -> RunDir:
    """Make a new run directory with its input files, whole or not at all."""
    final = root / run_id
    if final.exists():
        raise BadInput(f"There is already a run {run_id}.")
    aside = root / f".{run_id}.{os.getpid()}.tmp"
    aside.mkdir(mode=0o700)
    try:
        for name, text in files.items():
            write_text(aside / name, text)
        (aside / "control").mkdir()
        aside.rename(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return RunDir(final)
