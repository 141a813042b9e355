"""Batched evaluation of base and adapted models: greedy answers, and losses over the same tokens.

A batch has several prompts for all columns that can share a call (adapter_slots.py), padded on the left and masked, so
that answers equal those of each prompt alone, up to rounding. Prompts are chosen and answers scored elsewhere.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from studio.dataset.tokens.encode import IGNORED, Encoder, Example
from studio.engine.inference.adapter_slots import AdapterSlots, Group
from studio.engine.inference.loading import Device
from studio.engine.workers.harness import out_of_memory

# Rows per batch: on a CPU more rows gain little and need more padding.
ROWS, ROWS_CUDA = 16, 64
LOSS_TOKENS, LOSS_TOKENS_CUDA = 2048, 16_384  # tokens per batch: each has logits over the whole vocabulary
Answer = tuple[str, str]  # the text and why it ended: end, length, or too long (the prompt exceeds the context)
Losses = list[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt: its index, its token ids by column, and the maximum number of answer tokens."""

    place: int
    ids: dict[str, list[int]]
    tokens: int


@dataclass(frozen=True, slots=True)
class Asker:
    """The loaded models. asked: whether the work should end, checked between two tokens."""

    seats: AdapterSlots
    columns: list[str]
    device: Device
    dtype: str
    encoder: Encoder
    asked: Callable[[], bool]

    def answers(self, asks: Sequence[Ask], tell: Callable[[int], None]) -> dict[tuple[int, str], Answer]:
        """Generate every column's answer to every prompt; `tell` gets the number of finished prompts."""
        answers: dict[tuple[int, str], Answer] = {}
        # Sort by length to reduce padding; longest first, so that a lack of memory shows at once.
        order = sorted(asks, key=lambda ask: (ask.tokens, max(map(len, ask.ids.values()))), reverse=True)
        tell(0)
        rows = ROWS_CUDA if self.device.is_cuda else ROWS
        waiting = list(_batches(order, max(1, rows // len(self.columns))))
        done = 0
        while waiting:
            batch = waiting.pop(0)
            try:
                for group in self.seats.groups(self.columns):
                    answers |= self._answer(group, batch)
            except Exception as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                waiting[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
                continue
            done += len(batch)
            tell(done)
        return answers

    def losses(self, examples: Sequence[Example], tell: Callable[[int], None]) -> dict[str, Losses]:
        """Return, for each column, the (sum of losses, tokens) of each example in order."""
        if not examples:
            return {}
        losses: dict[str, Losses] = {column: [] for column in self.columns}
        tokens = LOSS_TOKENS_CUDA if self.device.is_cuda else LOSS_TOKENS
        longest = max(len(example.input_ids) for example in examples)
        size = max(1, tokens // (longest * len(self.columns)))
        done = 0
        tell(0)
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            for group in self.seats.groups(self.columns):
                self._loss(group, batch, losses)
            done += len(batch)
            tell(done)
        return losses

    def _answer(self, group: Group, batch: Sequence[Ask]) -> dict[tuple[int, str], Answer]:
        longest = max(len(ask.ids[column]) for ask in batch for column in group.columns)
        tight = longest + max(ask.tokens for ask in batch) > group.context
        if len(batch) > 1 and (tight or group.virtual_tokens):
            # One long prompt would reduce the room of all. And PEFT puts virtual tokens before the padding, which would
            # separate them from shorter prompts.
            return dict(itertools.chain.from_iterable(self._answer(group, [ask]).items() for ask in batch))
        if longest >= group.context:
            return {(ask.place, column): ("", "too long") for ask in batch for column in group.columns}
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        from studio.engine.inference.streaming import StopOn

        rows = [(ask, column) for ask in batch for column in group.columns]
        prompts = [ask.ids[column] for ask, column in rows]
        pad, ends = self.encoder.pad_id, set(self.encoder.eos_ids)
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts], device=self.device.name)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=self.device.name)
        config = GenerationConfig(
            max_new_tokens=min(max(ask.tokens for ask in batch), group.context - longest),
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=self.encoder.eos_ids,
            pad_token_id=pad,
            use_cache=True,
        )
        group.set_generation(config)
        with torch.no_grad(), group.times(len(batch)).as_wanted():
            sequences = group.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([StopOn(self.asked)]),
            )
        answers = {}
        for (ask, column), row in zip(rows, sequences[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in ends), None)
            answer = row[: ask.tokens] if end is None else row[:end]
            text = self.encoder.tokenizer.decode(answer, skip_special_tokens=True)
            answers[ask.place, column] = text, "length" if end is None else "end"
        return answers

    def _loss(self, group: Group, batch: Sequence[Example], losses: dict[str, Losses]) -> None:
        import torch

        rows = [example for example in batch for _ in group.columns]
        longest = max(len(example.input_ids) for example in rows)

        def padded(lists: Sequence[list[int]], value: int) -> Any:
            return torch.tensor([row + [value] * (longest - len(row)) for row in lists], device=self.device.name)

        ids = padded([example.input_ids for example in rows], self.encoder.pad_id)
        labels = padded([example.labels for example in rows], IGNORED)
        mask = padded([[1] * len(example.input_ids) for example in rows], 0)
        # As in training: products in bfloat16, sums in float32.
        bf16 = self.dtype == "bfloat16"
        autocast = torch.autocast(self.device.name, torch.bfloat16, enabled=bf16)
        with torch.no_grad(), group.times(len(batch)).as_wanted(), autocast:
            logits = group.model(input_ids=ids, attention_mask=mask).logits
        logits = logits[:, -longest:][:, :-1]  # without the virtual tokens before the text
        targets = labels[:, 1:]
        for place in range(len(rows)):
            trained = targets[place] != IGNORED
            loss = torch.nn.functional.cross_entropy(
                logits[place][trained].float(), targets[place][trained], reduction="sum"
            )
            losses[group.columns[place % len(group.columns)]].append((float(loss), int(trained.sum())))


def _batches(asks: Sequence[Ask], size: int) -> Iterator[list[Ask]]:
    """Yield batches of at most `size` prompts with the same maximum answer length."""
    for _, same_length in itertools.groupby(asks, key=lambda ask: ask.tokens):
        group = list(same_length)
        yield from (group[start : start + size] for start in range(0, len(group), size))
