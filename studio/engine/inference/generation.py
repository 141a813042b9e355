"""Generation loop for several prompts at once, with a token stream per row; each row ends independently.

transformers' generate samples all rows from one random stream, so an answer depends on the other rows of the batch.
Here each row has its own generator, with the same seed. A finished row leaves the batch and frees its memory. Greedy
answers equal those of generate, token for token. Models without a plain cache of keys and values (`can_answer`) use
generate itself, see engine/workers/chat.py.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# take(row, token): process the token; return False if the row is finished.
Take = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen; temperature 0 takes the most likely one."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class Rows:
    """The prompts of a batch, and callbacks for its tokens and rows."""

    prompts: Sequence[Sequence[int]]
    take: Take
    stopped: Callable[[], bool] = lambda: False
    leave: Callable[[Sequence[int]], None] = lambda kept: None  # indices of the rows that continue


def can_answer(model: Any) -> bool:
    """Whether the loop supports this model (a transformers model, not PEFT's wrapper)."""
    return {"position_ids", "past_key_values"} <= set(inspect.signature(model.forward).parameters)


def answer(model: Any, rows: Rows, drawing: SamplingOptions, pad_id: int) -> None:
    """Generate all answers; return when every row is finished, or when stopped."""
    with torch.inference_mode():
        _Loop(model, rows, drawing, pad_id).run()


class _Loop:
    def __init__(self, model: Any, rows: Rows, drawing: SamplingOptions, pad_id: int) -> None:
        self._model, self._asked = model, rows
        device = next(model.parameters()).device
        longest = max(map(len, rows.prompts))
        padded = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in rows.prompts]
        self._ids = torch.tensor(padded, device=device)
        self._mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in rows.prompts], device=device
        )
        self._padded = any(len(prompt) != longest for prompt in rows.prompts)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._rows = list(range(len(rows.prompts)))
        self._choose = TokenSampler(drawing, rows.prompts, device)
        self._cache: Any = None
        parameters = inspect.signature(model.forward).parameters
        # Only the last position's logits: those of a long prompt with a large vocabulary would take gigabytes.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def run(self) -> None:
        while not self._asked.stopped():
            output = self._model(
                input_ids=self._ids,
                attention_mask=self._mask if self._padded else None,
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                return_dict=True,
                **self._options,
            )
            self._cache = output.past_key_values
            tokens = self._choose(output.logits[:, -1].float())
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
        """Remove all other rows from the batch."""
        places = torch.tensor(going, device=tokens.device)
        self._cache.batch_select_indices(places)
        self._mask, self._positions = self._mask[places], self._positions[places]
        self._rows = [self._rows[place] for place in going]
        self._choose.keep(going)
        self._asked.leave(going)
        return tokens[places]


@dataclass(slots=True)
class TokenSampler:
    """Choose each row's next token from its scores, and track its tokens for the repetition penalty."""

    drawing: SamplingOptions
    prompts: Sequence[Sequence[int]]
    device: Any
    _used: torch.Tensor | None = field(default=None, init=False)  # mask of the tokens in each row, prompt included
    _generators: list[torch.Generator] = field(default_factory=list, init=False)
    _warpers: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        drawing = self.drawing
        for _ in self.prompts:
            self._generators.append(torch.Generator(self.device).manual_seed(drawing.seed))
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
            probabilities = scores.softmax(-1)
            drawn = [
                torch.multinomial(row, 1, generator=generator)
                for row, generator in zip(probabilities, self._generators, strict=True)
            ]
            tokens = torch.cat(drawn)
        else:
            tokens = scores.argmax(-1)
        if self._used is not None:
            self._used.scatter_(1, tokens[:, None], True)
        return tokens

    def keep(self, going: Sequence[int]) -> None:
        """Continue with only these rows, given by index."""
        self._generators = [self._generators[place] for place in going]
        if self._used is not None:
            self._used = self._used[list(going)]

    def _penalised(self, scores: torch.Tensor) -> torch.Tensor:
        if self._used is None:
            self._used = torch.zeros_like(scores, dtype=torch.bool)
            for row, prompt in enumerate(self.prompts):
                self._used[row, list(prompt)] = True
        penalty = self.drawing.repetition_penalty
        return torch.where(self._used, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
