"""Ask a base model and models trained on it the same question.

A studio has one chat worker with one base in it, loaded at the first question and kept for the next one from anyone.
Adapters are loaded onto it and dropped as needed. It frees its memory when idle, on request, and when a run needs it.
Conversations are stored by comparisons.py.
"""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.launch.duplex import ChatProcess
from studio.services.chat.fair_lock import Ticket
from studio.services.chat.participants import Side
from studio.services.chat.session import ChatSession
from studio.services.core import access, quotas
from studio.services.core.studio import Studio
from studio.services.models import models, trained_weights
from studio.services.runs import logs

# Longest wait for a reply, in seconds: a large base may load from a slow disk.
_PATIENCE = 600.0
# Seconds a worker may take to notice that its answer was stopped.
_HEARS = 60.0
# Adapters that may stay loaded, counting those in use: switching back costs nothing.
_SEATS = 4
_KINDS = ("loaded", "dropped", "end")

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled; temperature 0 takes the most likely token each time."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One side's answer so far. reason: why it ended: end, length or stopped. prompt: tokens in the prompt."""

    text: str = ""
    done: bool = False
    tokens: int = 0
    tokens_per_s: float = 0.0
    first_token_s: float = 0.0
    reason: str = ""
    prompt: int = 0


@dataclass(frozen=True, slots=True)
class ChatState:
    """All answers at one moment, in the order of the sides. status: a sentence on what is happening; notes: remarks."""

    status: str
    answers: tuple[Answer, ...]
    finished: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in memory. made_room: what the memory was last freed for, in words."""

    model: str = ""
    adapters: int = 0
    made_room: str = ""


def worker_pid(studio: Studio) -> int | None:
    """Process id of the chat worker, or None when it is not running."""
    talker = studio.state(ChatSession).talker
    return talker.pid if talker is not None and talker.alive else None


def ask(
    studio: Studio,
    sides: Sequence[Side],
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling | None = None,
    session: str = "",
) -> Iterator[ChatState]:
    """Ask; yields the state of all answers as tokens arrive. conversations: each side's messages, question last.

    `session` names the asker, who alone may stop the answer. Raises Conflict when this session's last question is still
    being answered, Unavailable when the worker dies.
    """
    if any(not conversation or not conversation[-1]["content"].strip() for conversation in conversations):
        raise BadInput("Write a question first.")
    quotas.check_chat(studio)
    room, visitor = studio.state(ChatSession), studio.visitor
    owner = visitor.owner
    state = ChatState("", tuple(Answer() for _ in sides))
    with room.line.join(_qualified(owner, session)) as ticket:
        reported = -1
        while (ahead := room.line.ahead(ticket)) and not ticket.stopped:
            if ahead != reported:
                reported = ahead
                yield replace(state, status=f"{_ahead_words(ahead)} before yours.")
            room.line.wait(ticket, 1.0)
        if ticket.stopped:
            yield _stopped(state)
            return
        room.made_room = ("", "")
        room.answering = frozenset(side.key.partition("@")[0] for side in sides)
        try:
            states = _answered(studio, sides, conversations, sampling or Sampling(), ticket, state)
            with contextlib.closing(states):
                for state in states:
                    yield state
        except Unavailable:
            if made_room := _made_room(room, owner):
                raise Unavailable(f"The model made room for {made_room}; ask again to load it.") from None
            raise
        finally:
            room.answering = frozenset()
            room.used = time.monotonic()
            # An answer that was left early has no count yet: estimate four characters per token.
            spent = sum(answer.tokens or len(answer.text) // 4 for answer in state.answers)
            quotas.note(studio, visitor, tokens=spent)


def _qualified(owner: str, session: str) -> str:
    """A session's name with its owner, so that no one can stop another's answer by naming their session."""
    return f"{owner}\0{session}"


def _made_room(room: ChatSession, asker: str) -> str:
    """What the memory was freed for, in words; another person's run is not named."""
    owner, name = room.made_room
    return "" if not name else f"the run {name}" if owner == asker else "another person's run"


def _ahead_words(ahead: int) -> str:
    """How many questions are answered first, in words."""
    return "One question is answered" if ahead == 1 else f"{ahead} questions are answered"


def _stopped(state: ChatState) -> ChatState:
    """The final state of a question that was stopped before it was answered."""
    answers = tuple(replace(answer, done=True, reason="stopped") for answer in state.answers)
    return replace(state, status="", answers=answers, finished=True)


def _answered(
    studio: Studio,
    sides: Sequence[Side],
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    ticket: Ticket,
    state: ChatState,
) -> Generator[ChatState, None, None]:
    """Load what is needed and ask, once it is this question's turn."""
    room = studio.state(ChatSession)
    base = sides[0].model, sides[0].dtype
    if room.base != base or not room.awake:
        yield replace(state, status=f"Loading {base[0]}")
        _open(studio, base)
    notes = []
    for side in sides:
        if side.folder is not None and side.identity not in room.seated:
            yield replace(state, status=f"Loading {side.title}")
            _load(room, side, {other.identity for other in sides})
        why = _mark_used(room, side)
        notes += [f"{side.title} answers separately, after the others: {why}."] if why else []
    state = replace(state, status="Answering", notes=tuple(notes))
    talker = room.talker
    if ticket.stopped or talker is None:
        yield _stopped(state)
        return
    yield state
    room.asked += 1
    payload = [
        {
            "column": str(place),
            "name": room.seated[side.identity][0] if side.folder is not None else "base",
            "data": side.data.model_dump(mode="json"),
            "messages": list(conversation),
        }
        for place, (side, conversation) in enumerate(zip(sides, conversations, strict=True))
    ]
    talker.tell({"op": "ask", "id": room.asked, "sides": payload, **asdict(sampling)})
    if ticket.stopped:  # stopped before the worker received the question
        talker.tell({"op": "stop", "id": room.asked})
    yield from _listen(room, talker, state)


def _open(studio: Studio, base: tuple[str, str]) -> None:
    """Start a worker for a base in place of the current one, and wait until it is ready."""
    room = studio.state(ChatSession)
    room.close()
    arguments = ["--model", str(models.folder_of(studio, base[0])), "--dtype", base[1]]
    room.talker = ChatProcess("studio.engine.workers.chat", arguments, logs.chat_log(studio))
    room.base = base
    for reply in room.talker.replies(_PATIENCE):
        if reply.get("kind") == "ready":
            return
        if reply.get("kind") == "error":
            room.close()
            raise StudioError(access.for_reader(studio, str(reply.get("message"))))


def _load(room: ChatSession, side: Side, in_use: set[tuple[str, int]]) -> None:
    """Load the weights of a side; the least recently used ones are dropped for it."""
    for key in [key for key in room.seated if key not in in_use][: max(0, len(room.seated) + 1 - _SEATS)]:
        _command(room, {"op": "drop", "name": room.seated.pop(key)[0]})
    name = f"{room.asked}.{len(room.seated)}.{side.key}"
    loaded = _command(room, {"op": "load", "name": name, "folder": str(side.folder)})
    room.seated[side.identity] = name, str(loaded.get("alone", ""))


def _mark_used(room: ChatSession, side: Side) -> str:
    """Mark a side as used now; returns why it needs a separate forward pass, or an empty string."""
    if side.folder is None:
        return ""
    room.seated[side.identity] = seat = room.seated.pop(side.identity)
    return seat[1]


def _command(room: ChatSession, message: dict[str, Any]) -> dict[str, Any]:
    """Send the worker a command other than a question. A failure leaves its state unknown, so it is then closed."""
    talker = room.talker
    if talker is None:
        raise Unavailable("The chat worker ended.")
    room.asked += 1
    talker.tell({**message, "id": room.asked})
    for reply in talker.replies(_PATIENCE):
        if reply.get("id") == room.asked and reply.get("kind") in ("error", *_KINDS):
            if reply["kind"] != "error":
                return reply
            room.close()
            raise StudioError(str(reply.get("message")))
    raise Unavailable("The chat worker ended.")


def _listen(room: ChatSession, talker: ChatProcess, state: ChatState) -> Iterator[ChatState]:
    """Yield the answers as they arrive. If the asker leaves before the end, they are stopped."""
    question, over = room.asked, False
    try:
        for reply in talker.replies(_PATIENCE):
            if reply.get("id") != question:
                continue
            kind = reply.get("kind")
            if kind == "error":
                over = True
                raise StudioError(str(reply.get("message")))
            if kind == "end":
                over = True
                yield replace(state, status="", finished=True)
                return
            if kind in ("delta", "done"):
                state = replace(state, answers=_updated(state.answers, reply))
                yield state
    finally:
        if not over:
            _stop_answer(room, talker, question)


def _stop_answer(room: ChatSession, talker: ChatProcess, asked: int) -> None:
    """Have the worker stop, so that it is ready for the next question; a worker that does not respond is closed."""
    try:
        talker.tell({"op": "stop", "id": asked})
        for reply in talker.replies(_HEARS):
            if reply.get("id") == asked and reply.get("kind") in ("end", "error"):
                return
    except Unavailable:
        if room.talker is talker:
            room.close()


def _updated(answers: tuple[Answer, ...], reply: dict[str, Any]) -> tuple[Answer, ...]:
    place = int(reply["column"])
    before = answers[place]
    if reply["kind"] == "delta":
        now = replace(before, text=before.text + str(reply.get("text", "")))
    else:
        seconds, first = float(reply.get("seconds", 0)), float(reply.get("first_token_s") or 0)
        tokens = int(reply.get("tokens", 0))
        now = replace(
            before,
            done=True,
            tokens=tokens,
            tokens_per_s=tokens / seconds if seconds else 0.0,
            first_token_s=first,
            reason=str(reply.get("reason", "")),
            prompt=int(reply.get("prompt", 0)),
        )
    return (*answers[:place], now, *answers[place + 1 :])


def stop(studio: Studio, session: str) -> None:
    """Stop the answer that the asker's `session` is receiving or waiting for."""
    room = studio.state(ChatSession)
    if room.line.stop(_qualified(studio.owner, session)) and room.talker is not None:
        with contextlib.suppress(Unavailable):
            room.talker.tell({"op": "stop", "id": room.asked})


def stop_all(studio: Studio) -> int:
    """Stop every answer that the asker is receiving or waiting for, in any session; returns how many."""
    prefix = _qualified(studio.owner, "")
    mine = [session for session in studio.state(ChatSession).line.sessions() if session.startswith(prefix)]
    for session in mine:
        stop(studio, session.removeprefix(prefix))
    return len(mine)


def loaded(studio: Studio) -> Loaded:
    """What is loaded for chat."""
    room = studio.state(ChatSession)
    return Loaded(room.base[0], len(room.seated)) if room.awake else Loaded(made_room=_made_room(room, studio.owner))


def unload(studio: Studio) -> None:
    """Free the chat worker's memory; raises Conflict while someone is being answered."""
    if not studio.state(ChatSession).close_if_free():
        raise Conflict("A question is being answered. The memory can be freed after it, or stop it first.")
    studio.state(ChatSession).made_room = ("", "")


def let_go(studio: Studio, run_id: str) -> bool:
    """Unload the weights of a run; returns False while it is being asked."""
    room, folder = studio.state(ChatSession), studio.run_dir(run_id).path
    with room.line.when_free() as free:
        if not free:
            return run_id not in room.answering
        for key in [key for key in room.seated if Path(key[0]).is_relative_to(folder)]:
            with contextlib.suppress(StudioError):  # a worker that has ended has nothing loaded
                _command(room, {"op": "drop", "name": room.seated.pop(key)[0]})
    return True


def unload_if_idle(studio: Studio) -> None:
    """Free the memory when no one has asked for a while."""
    studio.state(ChatSession).close_if_idle(studio.settings.chat_idle)


def close(studio: Studio) -> None:
    """End the chat worker because the studio closes; an answer in progress is cut short."""
    studio.state(ChatSession).end()


def held_out_prompts(studio: Studio, run_id: str, limit: int = 12) -> list[str]:
    """Held-out questions that the run or adapter was not trained on."""
    return [
        next(m["content"] for m in reversed(record.messages[:-1]) if m["role"] == "user")
        for record in trained_weights.held_out(studio, run_id, limit)
        if len(record.messages) > 1
    ]
