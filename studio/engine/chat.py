"""Answers questions with a base model and its adapters, side by side, over stdin and stdout.

    python -m studio.engine.chat --model FOLDER --dtype bfloat16 --data JSON [--adapter NAME=FOLDER …]

JSON lines. In:  {"op": "ask", "id", "messages", "columns", "max_new_tokens", "temperature", "top_p", "top_k",
                 "repetition_penalty", "seed"}, {"op": "stop", "id"}, {"op": "quit"}
Out: {"kind": "loading", "text"}, {"kind": "ready", "device", "seconds"}, {"kind": "delta", "id", "column", "text"},
     {"kind": "done", "id", "column", "tokens", "seconds", "first_token_s", "reason"}, {"kind": "end", "id"},
     {"kind": "error", "id", "message"}

The column "base" is the base without any adapter, every other one an adapter's name (or a whole model's: FOLDER may be
either). Which of them share a model in memory and a generate call: seats.py. It ends when stdin closes, so that a
studio that died leaves no model behind. What it does not do: keep a conversation (each question brings its messages),
write files.
"""

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from studio.dataset.encode import Encoder
from studio.engine import loading
from studio.engine.seats import BASE, PEFT_BASE, Group, Seats, take_seats
from studio.errors import BadInput, StudioError
from studio.themes import Data


class Turn(BaseModel):
    """One message of a conversation."""

    role: str
    content: str


class Ask(BaseModel):
    """A question, as it comes over stdin."""

    model_config = ConfigDict(extra="ignore")

    id: str | int
    messages: list[Turn] = Field(min_length=1)
    columns: list[str] = Field(min_length=1, max_length=8)
    max_new_tokens: int = Field(256, ge=1, le=32_768)
    temperature: float = Field(0.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    seed: int = Field(0, ge=0)


class Wire:
    """The protocol's two directions. stdout belongs to it alone: whatever libraries print goes to stderr."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()  # None: stdin is closed
        self._stopped: set[str | int] = set()
        self._closed = threading.Event()

    @classmethod
    def take_stdout(cls) -> "Wire":
        out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(out)

    def send(self, kind: str, **payload: Any) -> None:
        print(json.dumps({"kind": kind, **payload}, ensure_ascii=False), file=self._out, flush=True)

    def listen(self) -> None:
        """Read stdin in a thread, so that a stop is heard while an answer is made."""
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def stop_asked(self, ask_id: str | int) -> bool:
        return self._closed.is_set() or ask_id in self._stopped

    def _read(self) -> None:
        for line in sys.stdin:
            try:
                message = json.loads(line)
            except json.JSONDecodeError:
                message = {"op": "unreadable"}
            if not isinstance(message, dict):
                message = {"op": "unreadable"}
            if message.get("op") == "stop":
                self._stopped.add(message.get("id", ""))
                continue
            if message.get("op") == "quit":
                break
            self.inbox.put(message)
        self._closed.set()
        self.inbox.put(None)


@dataclass
class Room:
    """The loaded models and what is needed to talk with them."""

    seats: Seats
    encoder: Encoder
    device: loading.Device


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answer questions over stdin and stdout.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    parser.add_argument("--data", required=True, help="the data part of the recipe, as JSON")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER")
    given = parser.parse_args(argv)
    wire = Wire.take_stdout()
    wire.listen()
    try:
        room = open_room(wire, given)
    except BrokenPipeError:
        return 0
    except StudioError as error:
        wire.send("error", id=None, message=str(error))
        return error.exit_status
    except Exception as error:  # the top of the worker
        traceback.print_exc()
        wire.send("error", id=None, message=f"The model could not be loaded: {_plain(error)}")
        return 1
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more: the studio is gone
        converse(wire, room)
    return 0


def open_room(wire: Wire, given: argparse.Namespace) -> Room:
    """Load base and adapters, telling on the wire how far it is."""
    began = time.perf_counter()
    data = Data.model_validate_json(given.data)
    adapters = dict(_named(text) for text in given.adapter)
    wire.send("loading", text="Loading the libraries")
    import torch

    loading.quiet_libraries()
    encoder = Encoder(given.model, data)
    device = loading.pick_device()
    seats = take_seats(given.model, given.dtype, device, adapters, lambda text: wire.send("loading", text=text))
    torch.set_grad_enabled(False)
    wire.send("ready", device=device.words, seconds=round(time.perf_counter() - began, 3))
    return Room(seats, encoder, device)


def converse(wire: Wire, room: Room) -> None:
    """Answer until stdin closes."""
    while (message := wire.inbox.get()) is not None:
        ask_id = message.get("id")
        try:
            if message.get("op") != "ask":
                raise BadInput("This is no request: use op ask, stop or quit, one JSON object a line.")
            answer(wire, room, _ask(message))
            wire.send("end", id=ask_id)
        except StudioError as error:
            wire.send("error", id=ask_id, message=str(error))
        except BrokenPipeError:
            raise
        except Exception as error:  # the top of the worker: the next question may well succeed
            traceback.print_exc()
            wire.send("error", id=ask_id, message=_plain(error))


def answer(wire: Wire, room: Room, ask: Ask) -> None:
    """One generate call for the columns that can share it, a row for each; one after the other for the rest."""
    prompt = room.encoder.prompt_ids([turn.model_dump() for turn in ask.messages])
    for group in room.seats.groups(ask.columns):
        _answer(wire, room, ask, group, prompt)


def _answer(wire: Wire, room: Room, ask: Ask, group: Group, prompt: list[int]) -> None:
    import torch
    from transformers import StoppingCriteriaList, set_seed

    from studio.engine.streaming import BatchStreamer, Detokenizer, Row, StopOn

    room_left = group.context - len(prompt)
    if room_left < 1:
        raise BadInput(
            f"The conversation has {len(prompt)} tokens and the model reads {group.context}. Start a new one."
        )
    streamer = BatchStreamer(
        rows=[Row(column, Detokenizer(room.encoder.tokenizer)) for column in group.columns],
        eos_ids=set(room.encoder.eos_ids),
        on_delta=lambda column, text: wire.send("delta", id=ask.id, column=column, text=text),
        on_done=lambda row, reason, seconds: wire.send(
            "done",
            id=ask.id,
            column=row.column,
            tokens=row.tokens,
            seconds=round(seconds, 4),
            first_token_s=None if row.first is None else round(row.first, 4),
            reason=reason,
        ),
    )
    set_seed(ask.seed % 2**32)
    ids = torch.tensor([prompt] * len(group.columns), device=room.device.name)
    if not wire.stop_asked(ask.id):
        config = _generation(room, ask, min(ask.max_new_tokens, room_left))
        group.set_generation(config)
        with group.as_wanted():
            group.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([StopOn(lambda: wire.stop_asked(ask.id))]),
                **group.options,
            )
    streamer.finish("stopped" if wire.stop_asked(ask.id) else "length")


def _generation(room: Room, ask: Ask, max_new_tokens: int) -> Any:
    from transformers import GenerationConfig

    sampling = {"temperature": ask.temperature, "top_p": ask.top_p, "top_k": ask.top_k} if ask.temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=ask.temperature > 0,
        repetition_penalty=ask.repetition_penalty,
        eos_token_id=room.encoder.eos_ids,
        pad_token_id=room.encoder.pad_id,
        use_cache=True,
        **sampling,
    )


def _ask(message: dict[str, Any]) -> Ask:
    try:
        return Ask.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"The question cannot be answered: {where}: {first['msg']}.") from None


def _named(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not separator or name in ("", BASE, PEFT_BASE):
        raise BadInput(f"An adapter is given as NAME=FOLDER, not {text!r}; the name {BASE!r} is taken.")
    return name, Path(folder)


def _plain(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "The memory was not enough. Ask for fewer tokens or columns, or free some memory."
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


if __name__ == "__main__":
    raise SystemExit(main())
