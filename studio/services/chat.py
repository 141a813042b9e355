"""Asking base and adapted model the same question.

One chat worker a studio, one base in it; it is loaded at the first question, kept for the next, and gives its
memory back when idle, when another run is asked, or when told to.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.launch.talker import Talker
from studio.services import models, runs

if TYPE_CHECKING:
    from studio.services.studio import Studio

# Longest silence: loading a large base from a slow disk.
_PATIENCE = 600.0
_QUEUE_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One column's answer so far; reason is why it ended: end, length or stopped."""

    column: str
    text: str = ""
    done: bool = False
    tokens: int = 0
    tokens_per_s: float = 0.0
    first_token_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChatState:
    """All columns at one moment, and a sentence on what is going on."""

    status: str
    answers: dict[str, Answer]
    finished: bool = False


@dataclass(slots=True)
class _Room:
    """The worker of a studio and who may talk to it."""

    busy: threading.Lock = field(default_factory=threading.Lock)
    talker: Talker | None = None
    run: str = ""
    used: float = 0.0
    session: str = ""


_rooms: dict[int, _Room] = {}


def _room(studio: "Studio") -> _Room:
    return _rooms.setdefault(id(studio), _Room())


def ask(
    studio: "Studio",
    run_id: str,
    question: str,
    *,
    columns: Sequence[str] = ("base", "adapted"),
    session: str = "",
    system: str = "",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
) -> Iterator[ChatState]:
    """Ask a question; yields the state of all columns as tokens arrive.

    temperature 0 takes the likeliest token each time. `session` names the asker, who alone may stop the answer.
    Raises BadInput for an empty question, Conflict when the run has no adapter yet, Unavailable when the worker dies.
    """
    if not question.strip():
        raise BadInput("Write a question first.")
    info = runs.get(studio, run_id)
    if "adapted" in columns and not info.has_adapter:
        raise Conflict(
            f"Run {info.name} has no adapter yet: it is {info.state}. Wait until it has finished or stop it."
        )
    room = _room(studio)
    state = ChatState("", {column: Answer(column) for column in columns})
    if not room.busy.acquire(timeout=0):
        yield replace(state, status="Another question is being answered; yours is next.")
        if not room.busy.acquire(timeout=_QUEUE_PATIENCE):
            raise Unavailable("Another question takes long. Try again in a moment.")
    try:
        room.session = session
        if room.run != info.id or room.talker is None or not room.talker.alive:
            yield replace(state, status="Loading the base model and the adapter")
            _load(studio, room, info.id)
        messages = [{"role": "user", "content": question}]
        if system.strip():
            messages.insert(0, {"role": "system", "content": system})
        talker = room.talker
        assert talker is not None
        talker.tell(
            {
                "op": "ask",
                "id": session or "1",
                "messages": messages,
                "columns": list(columns),
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k,
                "repetition_penalty": repetition_penalty,
                "seed": seed,
            }
        )
        yield from _listen(talker, state)
    finally:
        room.used = time.monotonic()
        room.busy.release()


def _load(studio: "Studio", room: _Room, run_id: str) -> None:
    """Start a worker for a run in place of the one there is, and wait until it is ready."""
    _close(room)
    recipe = runs.recipe_of(studio, run_id)
    folder = models.folder_of(studio, recipe.model.model)
    run = studio.run_dir(run_id)
    arguments = ["--model", str(folder), "--dtype", recipe.model.dtype, "--data", json.dumps(recipe.data.model_dump())]
    if run.trained is not None:
        arguments += ["--adapter", f"adapted={run.trained}"]
    room.talker, room.run = Talker("studio.engine.chat", arguments, studio.settings.home / "chat.log"), run_id
    for reply in room.talker.replies(_PATIENCE):
        if reply.get("kind") == "ready":
            return
        if reply.get("kind") == "error":
            message = str(reply.get("message"))
            _close(room)
            raise StudioError(message)


def _listen(talker: Talker, state: ChatState) -> Iterator[ChatState]:
    state = replace(state, status="Answering")
    for reply in talker.replies(_PATIENCE):
        kind = reply.get("kind")
        if kind == "error":
            raise StudioError(str(reply.get("message")))
        if kind == "end":
            yield replace(state, status="", finished=True)
            return
        if kind in ("delta", "done"):
            state = replace(state, answers=_updated(state.answers, reply))
            yield state


def _updated(answers: dict[str, Answer], reply: dict[str, Any]) -> dict[str, Answer]:
    before = answers.get(str(reply.get("column")))
    if before is None:
        return answers
    if reply["kind"] == "delta":
        now = replace(before, text=before.text + str(reply.get("text", "")), tokens=before.tokens + 1)
    else:
        seconds = float(reply.get("seconds", 0))
        tokens = int(reply.get("tokens", 0))
        now = replace(
            before,
            done=True,
            tokens=tokens,
            tokens_per_s=tokens / seconds if seconds else 0.0,
            first_token_s=float(reply.get("first_token_s") or 0),
            reason=str(reply.get("reason", "")),
        )
    return {**answers, now.column: now}


def stop(studio: "Studio", run_id: str, session: str) -> None:
    """Stop the answer that `session` is being given."""
    room = _room(studio)
    if room.talker is not None and room.session == session:
        with contextlib.suppress(Unavailable):
            room.talker.tell({"op": "stop", "id": session or "1"})


def unload(studio: "Studio") -> None:
    """Give the chat worker's memory back."""
    room = _room(studio)
    with room.busy:
        _close(room)


def close(studio: "Studio") -> None:
    """End the chat worker of a studio that closes; an answer that is being given is cut short."""
    room = _rooms.pop(id(studio), None)
    if room is not None and room.talker is not None:
        room.talker.close(grace=0.0)  # it keeps nothing that could be lost


def unload_if_idle(studio: "Studio") -> None:
    """Give the memory back when nobody has asked for a while."""
    room = _room(studio)
    idle = time.monotonic() - room.used
    if room.talker is not None and idle > studio.settings.chat_idle and room.busy.acquire(blocking=False):
        try:
            _close(room)
        finally:
            room.busy.release()


def _close(room: _Room) -> None:
    if room.talker is not None:
        room.talker.close()
    room.talker, room.run = None, ""


def held_out_prompts(studio: "Studio", run_id: str, limit: int = 12) -> list[str]:
    """Questions that the run did not train on, ready to ask."""
    return [
        next(m["content"] for m in reversed(record.messages[:-1]) if m["role"] == "user")
        for record in runs.held_out(studio, run_id, limit)
        if len(record.messages) > 1
    ]
