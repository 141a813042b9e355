"""Comparisons: conversations with several sides, stored in the home so that a reload finds them.

comparisons/<id>.json, written whole after each turn, with its owner; another owner's is not found. Of each owner, the
newest `_KEPT` are kept. The file records who gave which answer; in a blind comparison, the page hides it.
"""

import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from studio import __version__
from studio.errors import BadInput, NotFound
from studio.rundir import write_json
from studio.services.chat.chat import Answer, ChatState, Message, Sampling
from studio.services.chat.participants import Side
from studio.services.core.studio import Studio

TIE = "tie"
_KEPT = 200
_ID = re.compile(r"[0-9a-f]{32}")
# Characters that control a terminal or hide text, except line breaks and tabs.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Who:
    """A side as it was when it answered. written: as requested, which identifies it in later turns."""

    written: str
    key: str
    title: str
    words: str
    model: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answers, in the order of the sides.

    order: positions of the sides as shown; blind: the sides are not named before a vote. vote: key of the preferred
    side, `tie`, or empty before a vote. shown: the sides were named without a vote.
    """

    id: str
    question: str
    sides: tuple[Who, ...]
    answers: tuple[Answer, ...]
    sampling: Sampling
    system: str = ""
    order: tuple[int, ...] = ()
    blind: bool = False
    shown: bool = False
    vote: str = ""
    time: float = 0.0
    finished: bool = False
    notes: tuple[str, ...] = ()

    @property
    def hidden(self) -> bool:
        """Whether the sides are still not named."""
        return self.blind and not self.shown and not self.vote


@dataclass(frozen=True, slots=True)
class Comparison:
    """A conversation with several sides; each side sees only its own answers."""

    id: str
    created: float
    turns: tuple[Turn, ...] = field(default=())
    owner: str = "local"

    @property
    def hidden(self) -> bool:
        return any(turn.hidden for turn in self.turns)


_READ = TypeAdapter(Comparison)
_GONE = "This comparison is no longer stored here."


def new_comparison() -> Comparison:
    """An empty comparison with a new id."""
    return Comparison(secrets.token_hex(16), time.time())


def clean_text(text: str) -> str:
    """A model's text with terminal control characters replaced by visible ones."""
    return _CONTROLS.sub("\ufffd", text)


def ask(sides: Sequence[Side], question: str, sampling: Sampling, system: str = "", blind: bool = False) -> Turn:
    """A new turn without answers; if blind, its sides are shown in a random order."""
    order = list(range(len(sides)))
    if blind:
        random.SystemRandom().shuffle(order)
    return Turn(
        secrets.token_hex(8),
        question,
        tuple(Who(side.written, side.key, side.title, side.words, side.model) for side in sides),
        tuple(Answer() for _ in sides),
        sampling,
        system,
        tuple(order),
        blind,
        time=time.time(),
    )


def with_answers(turn: Turn, state: ChatState) -> Turn:
    """The turn with the answers so far."""
    return replace(turn, answers=state.answers, notes=state.notes, finished=state.finished)


def messages(comparison: Comparison, turn: Turn) -> list[list[Message]]:
    """Messages for each side of a new turn: the system prompt, its earlier questions and answers, the question."""
    conversations = []
    for who in turn.sides:
        conversation: list[Message] = [{"role": "system", "content": turn.system}] if turn.system.strip() else []
        for past in comparison.turns:
            pairs = zip(past.sides, past.answers, strict=True)
            previous = next((answer.text for side, answer in pairs if side.written == who.written), None)
            if previous is not None:
                conversation += [{"role": "user", "content": past.question}, {"role": "assistant", "content": previous}]
        conversations.append([*conversation, {"role": "user", "content": turn.question}])
    return conversations


def add(comparison: Comparison, turn: Turn) -> Comparison:
    """The comparison with one more turn."""
    return replace(comparison, turns=(*comparison.turns, turn))


def take_back(comparison: Comparison) -> tuple[Comparison, Turn]:
    """The comparison without its last turn, and that turn."""
    if not comparison.turns:
        raise BadInput("Nothing was asked yet.")
    return replace(comparison, turns=comparison.turns[:-1]), comparison.turns[-1]


def change(comparison: Comparison, turn: Turn) -> Comparison:
    """The comparison with one of its turns replaced."""
    return replace(comparison, turns=tuple(turn if old.id == turn.id else old for old in comparison.turns))


def reveal(comparison: Comparison) -> Comparison:
    """The comparison with all sides named."""
    turns = tuple(replace(turn, shown=True) if turn.hidden else turn for turn in comparison.turns)
    return replace(comparison, turns=turns)


def save(studio: Studio, comparison: Comparison) -> None:
    """Store a comparison and delete the owner's oldest ones beyond `_KEPT`."""
    folder = _folder(studio)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{comparison.id}.json"
    if path.is_file() and _read(path, studio.owner) is None:
        raise NotFound(_GONE)  # another owner's, or not a comparison: not overwritten
    write_json(path, asdict(comparison) | {"owner": studio.owner})
    newest = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    if len(newest) > _KEPT:
        mine = [path for path in newest if _read(path, studio.owner) is not None]
        for path in mine[_KEPT:]:
            path.unlink(missing_ok=True)


def load(studio: Studio, key: str) -> Comparison:
    """The comparison with this id; raises NotFound."""
    path = _folder(studio) / f"{key}.json"
    comparison = _read(path, studio.owner) if _ID.fullmatch(key) else None
    if comparison is None:
        raise NotFound(_GONE)
    return comparison


def delete(studio: Studio, key: str) -> None:
    """Delete a comparison; raises NotFound for another owner's."""
    load(studio, key)
    (_folder(studio) / f"{key}.json").unlink(missing_ok=True)


def mine(studio: Studio) -> list[str]:
    """Ids of all comparisons of the asker."""
    paths = sorted(_folder(studio).glob("*.json"))
    return [path.stem for path in paths if _read(path, studio.owner) is not None]


def _read(path: Path, owner: str) -> Comparison | None:
    """A comparison of this owner; None for any other file."""
    try:
        comparison = _READ.validate_json(path.read_bytes())
    except (ValidationError, OSError):
        return None
    return comparison if comparison.owner == owner else None


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison for other people: everything except the owner, with the program that made it."""
    entry = {name: value for name, value in asdict(comparison).items() if name != "owner"}
    return {"made_by": f"LoRA Studio {__version__}", **entry}


def _folder(studio: Studio) -> Path:
    return studio.settings.home / "comparisons"
