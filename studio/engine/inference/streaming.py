"""Stream the text of several answers while they are generated.

`Detokenizer` turns one row's token ids into text piece by piece and never splits a character; `TextSender` has one for
each row. Generation and adapters are handled elsewhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import StoppingCriteria
from transformers.generation import BaseStreamer

Reason = Literal["end", "length", "stopped"]
INCOMPLETE = "\ufffd"  # the decoder's output for an incomplete character


class Detokenizer:
    """Decode a growing list of token ids into consecutive pieces of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # number of ids whose text was returned
        self._context = 0  # start of the context, for decoders that treat the first token of a text differently

    def add(self, token: int) -> str:
        """Add a token; return the text that is now final, empty while a character is incomplete."""
        self._ids.append(token)
        return self._piece(final=False)

    def end(self) -> str:
        """Return the remaining text, without a character that was cut off."""
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
    """The answer of one column during generation; limit: maximum number of tokens."""

    column: str
    text: Detokenizer
    limit: int
    tokens: int = 0
    first: float | None = None
    over: bool = False
    unsent: str = ""


@dataclass
class TextSender:
    """Take tokens one at a time and send the text of each row.

    on_delta(column, text); on_done(row, reason, seconds since the start). Text is sent at most once per `pause`
    seconds, because each message costs time in the loop and on the page.
    """

    rows: list[Row]
    eos_ids: set[int]
    on_delta: Callable[[str, str], None]
    on_done: Callable[[Row, Reason, float], None]
    pause: float = 0.03
    started: float = field(default_factory=time.perf_counter)
    _sent: float = 0.0

    def take(self, place: int, token: int) -> bool:
        """Take the next token of the row at `place`; return False if the row is finished."""
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
        elif now - self._sent >= self.pause or row.tokens == 1:
            self._sent = now
            for other in self.rows:
                self._send(other)
        return not row.over

    def finish(self, reason: Reason) -> None:
        """Finish the rows that are still unfinished."""
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
    """Pass the tokens that generate produces for one row to a TextSender."""

    def __init__(self, teller: TextSender, place: int) -> None:
        self._sender, self._place = teller, place
        self._prompt_passed = False

    def put(self, value: Any) -> None:
        if not self._prompt_passed:  # generate passes the prompt first
            self._prompt_passed = True
            return
        for token in value.reshape(-1).tolist():
            self._sender.take(self._place, token)

    def end(self) -> None:
        pass


class StopOn(StoppingCriteria):
    """Stop all rows when `asked` returns True."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self._asked(), device=input_ids.device, dtype=torch.bool)
