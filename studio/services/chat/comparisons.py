"""Comparisons: conversations that several sides had beside each other, kept in the home so that a reload finds them.

comparisons/<id>.json, written whole after each turn, with its owner; another's is not found. Of an owner's old ones,
the last `_KEPT` stay. Who gave which answer stands in the file; what is hidden from a person who judges blindly is
hidden by the page.
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
# What steers a terminal or hides text, but for line breaks and tabs.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Who:
    """A side as it was when it answered. written: as it was asked for, by which it is known again."""

    written: str
    key: str
    title: str
    words: str
    model: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answers, in the order of the sides.

    order: the places of the sides as they are shown; blind: nobody is told who is who before a vote. vote: the key of
    the side that was found better, `tie`, or nothing yet. shown: who is who was shown without a vote.
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
        """Whether who is who is not to be seen yet."""
        return self.blind and not self.shown and not self.vote


@dataclass(frozen=True, slots=True)
class Comparison:
    """A conversation with several sides; each sees its own answers only."""

    id: str
    created: float
    turns: tuple[Turn, ...] = field(default=())
    owner: str = "local"

    @property
    def hidden(self) -> bool:
        return any(turn.hidden for turn in self.turns)


_READ = TypeAdapter(Comparison)
_GONE = "This comparison is not kept here any more."


def new_comparison() -> Comparison:
    """An empty one."""
    return Comparison(secrets.token_hex(16), time.time())


def clean_text(text: str) -> str:
    """A model's text with what could steer a terminal made visible."""
    return _CONTROLS.sub("\ufffd", text)


def ask(sides: Sequence[Side], question: str, sampling: Sampling, system: str = "", blind: bool = False) -> Turn:
    """A turn that has just begun; blind, its sides are shown in an order drawn by chance."""
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
    """The turn with its answers as far as they are."""
    return replace(turn, answers=state.answers, notes=state.notes, finished=state.finished)


def messages(comparison: Comparison, turn: Turn) -> list[list[Message]]:
    """What each side of a new turn is told: the system prompt, what it was asked and said before, the question."""
    talks = []
    for who in turn.sides:
        talk: list[Message] = [{"role": "system", "content": turn.system}] if turn.system.strip() else []
        for past in comparison.turns:
            pairs = zip(past.sides, past.answers, strict=True)
            said = next((answer.text for one, answer in pairs if one.written == who.written), None)
            if said is not None:
                talk += [{"role": "user", "content": past.question}, {"role": "assistant", "content": said}]
        talks.append([*talk, {"role": "user", "content": turn.question}])
    return talks


def add(comparison: Comparison, turn: Turn) -> Comparison:
    """The comparison with one more turn."""
    return replace(comparison, turns=(*comparison.turns, turn))


def take_back(comparison: Comparison) -> tuple[Comparison, Turn]:
    """The comparison without its last turn, and that turn."""
    if not comparison.turns:
        raise BadInput("Nothing was asked yet.")
    return replace(comparison, turns=comparison.turns[:-1]), comparison.turns[-1]


def change(comparison: Comparison, turn: Turn) -> Comparison:
    """The comparison with one of its turns as it is now."""
    return replace(comparison, turns=tuple(turn if one.id == turn.id else one for one in comparison.turns))


def reveal(comparison: Comparison) -> Comparison:
    """The comparison with nothing hidden any more."""
    turns = tuple(replace(turn, shown=True) if turn.hidden else turn for turn in comparison.turns)
    return replace(comparison, turns=turns)


def save(studio: Studio, comparison: Comparison) -> None:
    """Keep it; the oldest make way."""
    folder = _folder(studio)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{comparison.id}.json"
    if path.is_file() and _read(path, studio.owner) is None:
        raise NotFound(_GONE)  # another's, or no comparison any more: it is not written over
    write_json(path, asdict(comparison) | {"owner": studio.owner})
    newest = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    if len(newest) > _KEPT:
        mine = [path for path in newest if _read(path, studio.owner) is not None]
        for path in mine[_KEPT:]:
            path.unlink(missing_ok=True)


def load(studio: Studio, key: str) -> Comparison:
    """The comparison that goes by this id."""
    path = _folder(studio) / f"{key}.json"
    found = _read(path, studio.owner) if _ID.fullmatch(key) else None
    if found is None:
        raise NotFound(_GONE)
    return found


def delete(studio: Studio, key: str) -> None:
    """Delete a comparison; raises NotFound for another's."""
    load(studio, key)
    (_folder(studio) / f"{key}.json").unlink(missing_ok=True)


def mine(studio: Studio) -> list[str]:
    """The ids of all that are the asker's."""
    found = sorted(_folder(studio).glob("*.json"))
    return [path.stem for path in found if _read(path, studio.owner) is not None]


def _read(path: Path, whose: str) -> Comparison | None:
    """A comparison of this owner; None for any other file."""
    try:
        found = _READ.validate_json(path.read_bytes())
    except (ValidationError, OSError):
        return None
    return found if found.owner == whose else None


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison as others get it: all there is, with the program that made it."""
    entry = {name: value for name, value in asdict(comparison).items() if name != "owner"}
    return {"made_by": f"LoRA Studio {__version__}", **entry}


def _folder(studio: Studio) -> Path:
    return studio.settings.home / "comparisons"
