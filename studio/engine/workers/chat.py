"""Chat worker: a base model and its adapters answer side by side, over stdin and stdout.

    python -m studio.engine.workers.chat --model FOLDER --dtype bfloat16

JSON lines. In:  {"op": "load", "id", "name", "folder"}, {"op": "drop", "id", "name"},
                 {"op": "ask", "id", "sides": [{"column", "name", "data", "messages"}], "max_new_tokens",
                 "temperature", "top_p", "top_k", "repetition_penalty", "seed"}, {"op": "stop", "id"}, {"op": "quit"}
Out: {"kind": "loading", "text"}, {"kind": "ready", "device", "seconds"}, {"kind": "loaded", "id", "alone"},
     {"kind": "dropped", "id"}, {"kind": "delta", "id", "column", "text"},
     {"kind": "done", "id", "column", "tokens", "prompt", "seconds", "first_token_s", "reason"}, {"kind": "end", "id"},
     {"kind": "error", "id", "message"}

A side's name is "base" or a name given to `load`, for an adapter or a whole model. `data` is the data part of the
recipe whose template formats the prompt; `messages` is that side's own conversation. `alone` is the reason why the
loaded model needs a separate forward pass, and empty if it shares one (engine/inference/adapter_slots.py has the
rules). The worker exits when stdin closes, so that a studio that was killed leaves no model in memory. It keeps no
conversation and writes no files.
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
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from studio.dataset.tokens.encode import Encoder
from studio.engine.inference import loading
from studio.engine.inference.adapter_slots import BASE, AdapterSlots, Group
from studio.engine.inference.libraries import import_for_answers
from studio.errors import BadInput, StudioError
from studio.recipe.fields import Data

if TYPE_CHECKING:
    from studio.engine.inference.streaming import (
        TextSender,  # imports transformers, which is imported only after the first "loading" message
    )

_ENCODERS = 8
M = TypeVar("M", bound=BaseModel)


class Turn(BaseModel):
    """One message of a conversation."""

    role: str
    content: str


class Side(BaseModel):
    """One column of a question: which model answers, with which formatting, and its conversation so far."""

    model_config = ConfigDict(extra="ignore")

    column: str
    name: str
    messages: list[Turn] = Field(min_length=1)
    data: Data = Field(default_factory=Data)


class Ask(BaseModel):
    """A question, as received on stdin."""

    model_config = ConfigDict(extra="ignore")

    id: str | int
    sides: list[Side] = Field(min_length=1, max_length=8)
    max_new_tokens: int = Field(256, ge=1, le=32_768)
    temperature: float = Field(0.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    seed: int = Field(0, ge=0)


class Load(BaseModel):
    """A request to load an adapter or model, as received on stdin."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1)
    folder: Path


class Wire:
    """Both directions of the protocol. stdout carries only its messages; library output goes to stderr."""

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
        """Read stdin in a thread, so that a stop is noticed during generation."""
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
class ChatWorker:
    """The loaded models, with an encoder per formatting."""

    seats: AdapterSlots
    folder: Path
    device: loading.Device
    encoders: dict[str, Encoder]

    def encoder(self, data: Data) -> Encoder:
        """Return the encoder for this formatting. Reading a tokenizer is slow, so the latest ones are cached."""
        key = data.model_dump_json()
        if key not in self.encoders:
            if len(self.encoders) >= _ENCODERS:
                self.encoders.pop(next(iter(self.encoders)))
            self.encoders[key] = Encoder(self.folder, data)
        return self.encoders[key]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answer questions over stdin and stdout.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    options = parser.parse_args(argv)
    wire = Wire.take_stdout()
    wire.listen()
    try:
        worker = open_worker(wire, options.model, options.dtype)
    except BrokenPipeError:
        return 0
    except StudioError as error:
        wire.send("error", id=None, message=str(error))
        return error.exit_status
    except Exception as error:  # the top of the worker
        traceback.print_exc()
        wire.send("error", id=None, message=f"The model could not be loaded: {_plain(error)}")
        return 1
    with contextlib.suppress(BrokenPipeError):  # the reader is gone: the studio has closed
        converse(wire, worker)
    return 0


def open_worker(wire: Wire, folder: Path, dtype: str) -> ChatWorker:
    """Load the base and report progress on the wire."""
    started = time.perf_counter()
    wire.send("loading", text="Loading the libraries")
    import_for_answers()
    import torch

    loading.quiet_libraries()
    device = loading.pick_device()
    slots = AdapterSlots(folder, dtype, device, lambda text: wire.send("loading", text=text))
    torch.set_grad_enabled(False)
    wire.send("ready", device=device.words, seconds=round(time.perf_counter() - started, 3))
    return ChatWorker(slots, folder, device, {})


def converse(wire: Wire, worker: ChatWorker) -> None:
    """Handle requests until stdin closes."""
    while (message := wire.inbox.get()) is not None:
        ask_id = message.get("id")
        try:
            _do(wire, worker, message)
        except StudioError as error:
            wire.send("error", id=ask_id, message=str(error))
        except BrokenPipeError:
            raise
        except Exception as error:  # the top of the worker: the next question may succeed
            traceback.print_exc()
            wire.send("error", id=ask_id, message=_plain(error))


def _do(wire: Wire, worker: ChatWorker, message: dict[str, Any]) -> None:
    match message.get("op"):
        case "ask":
            answer(wire, worker, _read(Ask, message))
            wire.send("end", id=message.get("id"))
        case "load":
            request = _read(Load, message)
            if request.name == BASE:
                raise BadInput(f"The name {BASE!r} is reserved for the base model. Use another name.")
            worker.seats.load(request.name, request.folder)
            wire.send("loaded", id=message.get("id"), alone=worker.seats.why_alone(request.name))
        case "drop":
            worker.seats.drop(str(message.get("name")))
            wire.send("dropped", id=message.get("id"))
        case _:
            raise BadInput("Unknown request. Send one JSON object per line with op ask, load, drop, stop or quit.")


def answer(wire: Wire, worker: ChatWorker, ask: Ask) -> None:
    """Answer a question in every column: one forward pass for all that can share it, then one for each other."""
    sides = {side.column: side for side in ask.sides}
    for columns in _rounds(ask.sides):
        for group in worker.seats.groups([sides[column].name for column in columns]):
            names = {sides[column].name: column for column in columns}
            _answer(wire, worker, ask, group, [sides[names[name]] for name in group.columns])


def _rounds(sides: list[Side]) -> list[list[str]]:
    """Group columns into rounds in which no model answers twice."""
    rounds: list[dict[str, str]] = []
    for side in sides:
        free = next((columns for columns in rounds if side.name not in columns), None)
        if free is None:
            rounds.append(free := {})
        free[side.name] = side.column
    return [list(columns.values()) for columns in rounds]


def _answer(wire: Wire, worker: ChatWorker, ask: Ask, group: Group, sides: list[Side]) -> None:
    from studio.engine.inference import generation
    from studio.engine.inference.streaming import Detokenizer, Row, TextSender

    encoders = [worker.encoder(side.data) for side in sides]
    prompts = [
        encoder.prompt_ids([turn.model_dump() for turn in side.messages])
        for encoder, side in zip(encoders, sides, strict=True)
    ]
    longest = max(map(len, prompts))
    if longest >= group.context:
        raise BadInput(
            f"The conversation has {longest} tokens; the model's context is {group.context}. Start a new conversation."
        )
    lengths = {side.column: len(prompt) for side, prompt in zip(sides, prompts, strict=True)}
    sender = TextSender(
        rows=[
            Row(side.column, Detokenizer(encoder.tokenizer), min(ask.max_new_tokens, group.context - len(prompt)))
            for side, encoder, prompt in zip(sides, encoders, prompts, strict=True)
        ],
        eos_ids=set(encoders[0].eos_ids),
        on_delta=lambda column, text: wire.send("delta", id=ask.id, column=column, text=text),
        on_done=lambda row, reason, seconds: wire.send(
            "done",
            id=ask.id,
            column=row.column,
            tokens=row.tokens,
            prompt=lengths[row.column],
            seconds=round(seconds, 4),
            first_token_s=None if row.first is None else round(row.first, 4),
            reason=reason,
        ),
    )
    if group.virtual_tokens or not generation.can_answer(group.inner):
        for place, prompt in enumerate(prompts):
            _generate(wire, ask, group.only(place), prompt, sender, place, encoders[place])
    else:
        with group.as_wanted() as leave:
            rows = generation.Rows(prompts, sender.take, lambda: wire.stop_asked(ask.id), leave)
            generation.answer(group.inner, rows, _sampling(ask), encoders[0].pad_id)
    sender.finish("stopped" if wire.stop_asked(ask.id) else "length")


def _generate(
    wire: Wire, ask: Ask, group: Group, prompt: list[int], sender: "TextSender", place: int, encoder: Encoder
) -> None:
    """Generate one row with transformers' generate, for models that our loop does not support."""
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList, set_seed

    from studio.engine.inference.streaming import StopOn, Streamer

    if wire.stop_asked(ask.id):
        return
    sampling = {"temperature": ask.temperature, "top_p": ask.top_p, "top_k": ask.top_k} if ask.temperature > 0 else {}
    config = GenerationConfig(
        max_new_tokens=sender.rows[place].limit,
        do_sample=ask.temperature > 0,
        repetition_penalty=ask.repetition_penalty,
        eos_token_id=encoder.eos_ids,
        pad_token_id=encoder.pad_id,
        use_cache=True,
        **sampling,
    )
    group.set_generation(config)
    ids = torch.tensor([prompt], device=group.model.device)
    set_seed(ask.seed % 2**32)
    with group.as_wanted():
        group.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            streamer=Streamer(sender, place),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([StopOn(lambda: wire.stop_asked(ask.id))]),
        )


def _sampling(ask: Ask) -> Any:
    from studio.engine.inference.generation import SamplingOptions

    return SamplingOptions(ask.temperature, ask.top_p, ask.top_k, ask.repetition_penalty, ask.seed % 2**63)


def _read(kind: type[M], message: dict[str, Any]) -> M:
    try:
        return kind.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"The question cannot be answered: {where}: {first['msg']}.") from None


def _plain(error: Exception) -> str:
    """Describe an unexpected error in one sentence."""
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "Not enough memory. Ask for fewer tokens or columns, or free some memory."
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


if __name__ == "__main__":
    raise SystemExit(main())
