"""Votes: which of two answers a person preferred, stored for each pair of sides, and their tally.

votes/<pair>.jsonl, one vote per line, append-only. The files are the only record: nothing is in the database. A later
vote with the same id replaces an earlier one; a line torn by a power cut is skipped.
"""

import hashlib
import json
import math
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import BadInput, Conflict, NotFound
from studio.rundir import write_json
from studio.services.chat.comparisons import TIE, Turn
from studio.services.chat.participants import BASE
from studio.services.core.identity import LOCAL
from studio.services.core.studio import Studio

_Z = 1.959964  # normal quantile for a two-sided 95% interval
WHOSE = "owner.json"  # next to a visitor's votes: their owner
_writing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote. better: the key of a side, or `tie`; blind: the sides were not named."""

    id: str
    time: float
    sides: list[str]
    better: str
    blind: bool
    question: str


@dataclass(frozen=True, slots=True)
class Tally:
    """The tally of a pair's votes. `second` is the side that the words are about: never the base."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    low: float
    high: float
    words: str


def cast(studio: Studio, turn: Turn, better: str) -> Tally:
    """Record a vote on a turn with two sides; better: the key of a side, or `tie`."""
    keys = [who.key for who in turn.sides]
    if len(keys) != 2:
        raise BadInput("Votes compare two sides. Leave the third one out.")
    if better not in (*keys, TIE):
        raise BadInput(f"A vote is for one of the two sides or a tie, not for {better!r}.")
    if not turn.finished:
        raise Conflict("Wait until both answers are finished before you vote.")
    path = _path(studio, keys)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.name != "votes" and not (path.parent / WHOSE).exists():
        write_json(path.parent / WHOSE, {"owner": studio.owner})
    _append(path, asdict(Vote(turn.id, time.time(), _pair(keys), better, turn.hidden, turn.question)))
    return tally(studio, turn)


def tally(studio: Studio, turn: Turn) -> Tally:
    """The tally of the votes on the two sides of a turn so far."""
    first, second = _pair([who.key for who in turn.sides])
    names = {who.key: who.title for who in turn.sides}
    better = [vote.better for vote in of_pair(studio, [first, second])]
    wins, losses, ties = better.count(second), better.count(first), better.count(TIE)
    low, high = wilson(wins, wins + losses)
    words = _words(names, (first, second), wins, losses, ties)
    return Tally(first, second, wins, losses, ties, low, high, words)


def of_pair(studio: Studio, keys: list[str]) -> list[Vote]:
    """All votes on two sides, oldest first."""
    try:
        lines = _path(studio, keys).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    votes: dict[str, Vote] = {}
    for line in lines:
        try:
            vote = Vote(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if sorted(vote.sides) == sorted(keys):
            votes[vote.id] = vote
    return list(votes.values())


def files(studio: Studio) -> list[Path]:
    """The files with the asker's votes."""
    return sorted(_folder(studio).glob("*.jsonl"))


def delete(studio: Studio, name: str) -> None:
    """Delete one file of the asker's votes, by its name."""
    path = next((path for path in files(studio) if path.name == name), None)
    if path is None:
        raise NotFound("There are no such votes.")
    path.unlink(missing_ok=True)


def wilson(wins: int, of: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share: accurate for few votes and for shares near 0 and 1."""
    if not of:
        return 0.0, 1.0
    share, square = wins / of, _Z * _Z / of
    middle = share + square / 2
    spread = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of))
    return max(0.0, (middle - spread) / (1 + square)), min(1.0, (middle + spread) / (1 + square))


def _words(names: dict[str, str], pair: tuple[str, str], wins: int, losses: int, ties: int) -> str:
    first, second = pair
    name = "the adapted model" if first == BASE else names[second]
    other = "the base" if first == BASE else names[first]
    apart = f" ({ties} {'tie' if ties == 1 else 'ties'} left out)" if ties else ""
    of = wins + losses
    if not of:
        return f"No vote for either side yet{apart}." if ties else "No votes yet."
    low, high = wilson(wins, of)
    verdict = f"{name} is preferred" if low > 0.5 else f"{other} is preferred" if high < 0.5 else "cannot tell yet"
    return f"{wins} of {of} preferred {name}{apart}, 95% interval {low:.2f} to {high:.2f}: {verdict}."


def _pair(keys: list[str]) -> list[str]:
    """Two keys in the order in which they are always named: the base first."""
    return sorted(keys, key=lambda key: (key != BASE, key))


def _path(studio: Studio, keys: list[str]) -> Path:
    name = "--".join(re.sub(r"[^\w@.-]", "_", key) for key in _pair(keys))
    return _folder(studio) / f"{name}.jsonl"


def _folder(studio: Studio) -> Path:
    """Folder of an owner's votes; those of the local person are at the top level."""
    folder = studio.settings.home / "votes"
    owner = studio.owner
    return folder if owner == LOCAL.owner else folder / hashlib.sha256(owner.encode()).hexdigest()[:32]


def _append(path: Path, value: dict[str, Any]) -> None:
    """Append one line, on disk when this returns; a line left unfinished by a power cut is ended first."""
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    with _writing, path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
