"""The journal events.jsonl: one writer, any number of readers, ordered by seq."""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


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
        # The crc covers the line without the crc field: computed on the raw bytes, since journals are long.
        body = line[:-_TAIL]
        if f"{zlib.crc32(b'}', zlib.crc32(body)):08x}".encode() != line[-_TAIL + 8 : -2]:
            return None
        value = json.loads(line)
        return Event(value["seq"], value["time"], value["kind"], value["payload"])
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """Events from one read of a journal, and the byte offset at which the next read starts."""

    events: list[Event]
    offset: int
    damaged: int = 0


def read_events(path: Path, offset: int = 0, limit: int | None = None) -> Reading:
    """Read complete events from byte `offset` on. An incomplete last line is left for the next read.

    A damaged line in the middle is skipped and counted. A file that became shorter than `offset` (a torn tail
    overwritten on resume) is read from its start: readers are idempotent on seq.
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
    """Replace non-finite numbers by their name, since JSON has no NaN."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return repr(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


class Journal:
    """The only writer of events.jsonl. Opening it removes a torn last line and continues the numbering."""

    def __init__(self, path: Path) -> None:
        self._path = path
        reading = read_events(path)
        self.seq = reading.events[-1].seq if reading.events else 0
        self._file = path.open("ab", buffering=0)
        self._file.truncate(reading.offset)

    def write(self, kind: str, *, sync: bool = False, **payload: Any) -> Event:
        """Append one event. When it returns, the event survives a kill; with `sync`, also a power cut.

        If it cannot be written (a full disk), nothing is: OSError is raised, and the next event reuses its number.
        """
        event = Event(self.seq + 1, time.time(), kind, _finite(payload))
        end = self._file.seek(0, os.SEEK_END)
        line = memoryview(_line(event))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise
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
