"""Several answers that are made at once, told as text while they are made.

`Detokenizer` turns one row's token ids into text piece by piece and never splits a character; `Teller` gives every row
its own. What this does not do: generate, or know about adapters.
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
    """One column's answer in the making; limit: most tokens it may have."""

    column: str
    text: Detokenizer
    limit: int
    tokens: int = 0
    first: float | None = None
    over: bool = False
    unsent: str = ""


@dataclass
class TextSender:
    """Takes one token of a row after the other and tells the rows' text on.

    on_delta(column, text); on_done(row, reason, seconds since the start). Text that comes faster than anyone reads is
    told together: each word on its way costs the loop, and the page.
    """

    rows: list[Row]
    eos_ids: set[int]
    on_delta: Callable[[str, str], None]
    on_done: Callable[[Row, Reason, float], None]
    pause: float = 0.03
    started: float = field(default_factory=time.perf_counter)
    _told: float = 0.0

    def take(self, place: int, token: int) -> bool:
        """One more token of the row at `place`; False when it is over."""
        row = self.rows[place]
        if row.over:
            return False
        now = time.perf_counter() - self.started
        row.tokens += 1
        if row.first is None:
            row.first = now
        if token in self.eos_ids:
            self._close(row, "end", now)
            return False
        row.unsent += row.text.add(token)
        if row.tokens >= row.limit:
            self._close(row, "length", now)
        elif now - self._told >= self.pause or row.tokens == 1:
            self._told = now
            for one in self.rows:
                self._send(one)
        return not row.over

    def finish(self, reason: Reason) -> None:
        """End the rows that did not end by themselves."""
        for row in self.rows:
            if not row.over:
                self._close(row, reason, time.perf_counter() - self.started)

    def _send(self, row: Row) -> None:
        if row.unsent:
            self.on_delta(row.column, row.unsent)
            row.unsent = ""

    def _close(self, row: Row, reason: Reason, now: float) -> None:
        row.over = True
        row.unsent += row.text.end()
        self._send(row)
        self.on_done(row, reason, now)


class Streamer(BaseStreamer):
    """Hands what generate makes of one row to a Teller."""

    def __init__(self, teller: TextSender, place: int) -> None:
        self._teller, self._place = teller, place
        self._prompt_passed = False

    def put(self, value: Any) -> None:
        if not self._prompt_passed:  # generate hands the prompt over first
            self._prompt_passed = True
            return
        for token in value.reshape(-1).tolist():
            self._teller.take(self._place, token)

    def end(self) -> None:
        pass


class StopOn(StoppingCriteria):
    """Ends all rows when `asked` says so."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self._asked(), device=input_ids.device, dtype=torch.bool)
