"""Several answers from one generate call, told as text while they are made.

`Detokenizer` turns one row's token ids into text piece by piece and never splits a character; `BatchStreamer`
gives every row of a batch its own. What this does not do: generate, or know about adapters.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import StoppingCriteria
from transformers.generation import BaseStreamer

Reason = Literal["end", "length", "stopped"]
INCOMPLETE = "\ufffd"  # what a decoder shows for the first bytes of a character


class Detokenizer:
    """Text of a growing list of token ids, in pieces that can be joined."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # ids whose text was given out
        self._context = 0  # some ids before them, for decoders that treat the first token of a text differently

    def add(self, token: int) -> str:
        """Text that became certain with this token; empty while a character is incomplete."""
        self._ids.append(token)
        return self._piece(final=False)

    def end(self) -> str:
        """What was held back, without a character that was cut off in its middle."""
        return self._piece(final=True).rstrip(INCOMPLETE)

    def _piece(self, final: bool) -> str:
        before = self._decode(self._ids[self._context : self._shown])
        after = self._decode(self._ids[self._context :])
        if len(after) <= len(before) or (after.endswith(INCOMPLETE) and not final):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


@dataclass
class Row:
    """One column's answer in the making."""

    column: str
    text: Detokenizer
    tokens: int = 0
    first: float | None = None
    over: bool = False


@dataclass
class BatchStreamer(BaseStreamer):
    """Receives one token a row at each step and tells the rows' text on.

    on_delta(column, text); on_done(row, reason, seconds since the start).
    """

    rows: list[Row]
    eos_ids: set[int]
    on_delta: Callable[[str, str], None]
    on_done: Callable[[Row, Reason, float], None]
    started: float = field(default_factory=time.perf_counter)
    _prompt_passed: bool = False

    def put(self, value: Any) -> None:
        if not self._prompt_passed:  # generate hands the prompt over first
            self._prompt_passed = True
            return
        now = time.perf_counter() - self.started
        for row, token in zip(self.rows, value.reshape(-1).tolist(), strict=True):
            if not row.over:  # what follows the end is padding
                self._take(row, token, now)

    def end(self) -> None:
        pass

    def finish(self, reason: Reason) -> None:
        """End the rows that did not end by themselves."""
        for row in self.rows:
            if not row.over:
                self._close(row, reason, time.perf_counter() - self.started)

    def _take(self, row: Row, token: int, now: float) -> None:
        row.tokens += 1
        if row.first is None:
            row.first = now
        if token in self.eos_ids:
            self._close(row, "end", now)
        elif piece := row.text.add(token):
            self.on_delta(row.column, piece)

    def _close(self, row: Row, reason: Reason, now: float) -> None:
        row.over = True
        if piece := row.text.end():
            self.on_delta(row.column, piece)
        self.on_done(row, reason, now)


class StopOn(StoppingCriteria):
    """Ends all rows when `asked` says so."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self._asked(), device=input_ids.device, dtype=torch.bool)
