"""The loop that makes several answers at once: a prompt and a stream of tokens a row, and each row ends by itself.

transformers' generate draws all rows from one stream of random numbers, so that an answer depends on who else is asked;
here each row has its own, with the same seed. A row that is over leaves the batch and its memory. Greedy answers are
those of generate, token for token. For models that keep no plain cache of keys and values (`suits`), generate itself
is used, see engine/workers/chat.py.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# take(row, token): tell the token on; False when the row is over.
Take = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen; temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class Rows:
    """What is asked, and who wants to know of it."""

    prompts: Sequence[Sequence[int]]
    take: Take
    stopped: Callable[[], bool] = lambda: False
    leave: Callable[[Sequence[int]], None] = lambda kept: None  # the places of the rows that go on


def can_answer(model: Any) -> bool:
    """Whether the loop can drive this model (a transformers model, not PEFT's wrapper)."""
    return {"position_ids", "past_key_values"} <= set(inspect.signature(model.forward).parameters)


def answer(model: Any, rows: Rows, drawing: SamplingOptions, pad_id: int) -> None:
    """Make all answers; ends when every row is over, or when stopped."""
    with torch.inference_mode():
        _Loop(model, rows, drawing, pad_id).run()


class _Loop:
    def __init__(self, model: Any, rows: Rows, drawing: SamplingOptions, pad_id: int) -> None:
        self._model, self._asked = model, rows
        device = next(model.parameters()).device
        longest = max(map(len, rows.prompts))
        filled = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in rows.prompts]
        self._ids = torch.tensor(filled, device=device)
        self._mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in rows.prompts], device=device
        )
        self._padded = any(len(prompt) != longest for prompt in rows.prompts)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._rows = list(range(len(rows.prompts)))
        self._choose = TokenSampler(drawing, rows.prompts, device)
        self._cache: Any = None
        wants = inspect.signature(model.forward).parameters
        # Only the last place's scores are needed: of a long prompt with a large vocabulary they would take gigabytes.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in wants else {}

    def run(self) -> None:
        while not self._asked.stopped():
            found = self._model(
                input_ids=self._ids,
                attention_mask=self._mask if self._padded else None,
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                return_dict=True,
                **self._options,
            )
            self._cache = found.past_key_values
            tokens = self._choose(found.logits[:, -1].float())
            going = [
                place
                for place, (row, token) in enumerate(zip(self._rows, tokens.tolist(), strict=True))
                if self._asked.take(row, token)
            ]
            if not going:
                return
            if len(going) < len(self._rows) and self._may_shrink():
                tokens = self._keep(going, tokens)
            elif len(going) < len(self._rows):
                going = list(range(len(self._rows)))
            self._ids = tokens[:, None]
            self._positions = self._positions[:, -1:] + 1
            if self._padded:
                self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)

    def _may_shrink(self) -> bool:
        from transformers import DynamicCache, DynamicLayer

        return isinstance(self._cache, DynamicCache) and all(
            isinstance(layer, DynamicLayer) for layer in self._cache.layers
        )

    def _keep(self, going: list[int], tokens: torch.Tensor) -> torch.Tensor:
        """Let the other rows leave the batch."""
        places = torch.tensor(going, device=tokens.device)
        self._cache.batch_select_indices(places)
        self._mask, self._positions = self._mask[places], self._positions[places]
        self._rows = [self._rows[place] for place in going]
        self._choose.keep(going)
        self._asked.leave(going)
        return tokens[places]


@dataclass(slots=True)
class TokenSampler:
    """Chooses each row's next token from its scores, and remembers what the row has said for the penalty."""

    drawing: SamplingOptions
    prompts: Sequence[Sequence[int]]
    device: Any
    _said: torch.Tensor | None = field(default=None, init=False)  # which tokens a row has had, prompt included
    _dice: list[torch.Generator] = field(default_factory=list, init=False)
    _warpers: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        drawing = self.drawing
        for _ in self.prompts:
            self._dice.append(torch.Generator(self.device).manual_seed(drawing.seed))
        if drawing.temperature > 0:
            self._warpers = [TemperatureLogitsWarper(drawing.temperature)]
            self._warpers += [TopKLogitsWarper(drawing.top_k)] if drawing.top_k else []
            self._warpers += [TopPLogitsWarper(drawing.top_p)] if drawing.top_p < 1 else []

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        if self.drawing.repetition_penalty != 1:
            scores = self._penalised(scores)
        for warp in self._warpers:
            scores = warp(None, scores)
        if self.drawing.temperature > 0:
            shares = scores.softmax(-1)
            drawn = [
                torch.multinomial(share, 1, generator=dice) for share, dice in zip(shares, self._dice, strict=True)
            ]
            tokens = torch.cat(drawn)
        else:
            tokens = scores.argmax(-1)
        if self._said is not None:
            self._said.scatter_(1, tokens[:, None], True)
        return tokens

    def keep(self, going: Sequence[int]) -> None:
        """Only these rows, by their place, go on."""
        self._dice = [self._dice[place] for place in going]
        if self._said is not None:
            self._said = self._said[list(going)]

    def _penalised(self, scores: torch.Tensor) -> torch.Tensor:
        if self._said is None:
            self._said = torch.zeros_like(scores, dtype=torch.bool)
            for row, prompt in enumerate(self.prompts):
                self._said[row, list(prompt)] = True
        penalty = self.drawing.repetition_penalty
        return torch.where(self._said, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
