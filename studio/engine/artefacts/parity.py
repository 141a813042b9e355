"""Measures parity (evaluation/parity.py says what that is): what the chat's model says, and what an artefact says.

    asks = choose(...)               the prompts, as the chat words them
    live = chatted(...)              the trained model as the chat loads it: answers, and logits at the places looked at
    other = reread(model, live)      an artefact's logits at the same places of the same tokens
    found = compare(...)             the figures, judged by the bound of the kind

Logits are kept for a few places of each prompt only: with a large vocabulary all of them would take gigabytes.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.dataset.read.formats import Message
from studio.dataset.tokens.encode import Encoder
from studio.dataset.tokens.template import template_source, with_system
from studio.engine.inference import loading
from studio.errors import BadInput
from studio.evaluation.parity import LOADERS, Parity, fault
from studio.recipe.fields import Data
from studio.rundir import read_json, write_json

PROMPTS = 8
TOKENS = 24  # of each answer
BEFORE = 16  # places looked at before an answer's first
LONGEST = 512  # tokens of a prompt: longer ones make the check slow and not better
# Asked where a run held out too few examples of its own.
GENERAL = (
    "What is 12 plus 30? Answer with one short sentence.",
    "Name three colours.",
    "Write one sentence about the sea.",
    "Which day comes after Monday?",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt: its messages, the text that the chat makes of them, and that text's token ids."""

    messages: list[Message]
    text: str
    framed: bool
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Seen:
    """A prompt with its answer, and a model's logits (places × vocabulary, float32) from place `start` on."""

    ids: list[int]
    start: int
    answer: int  # tokens of the answer
    logits: Any


Tick = Callable[[int, int], None]


def choose(talks: Sequence[list[Message]], encoder: Encoder, context: int) -> list[Ask]:
    """The prompts that are asked: the first of `talks` that are short enough, filled up with general ones."""
    found: list[Ask] = []
    general: list[list[Message]] = [[{"role": "user", "content": text}] for text in GENERAL]
    for messages in [*talks, *general]:
        try:
            text, framed = encoder.prompt_text(messages)
            ids = encoder.prompt_ids(messages)
        except BadInput:
            continue  # a template that has no words for it has none in the chat either
        own = len(found) < PROMPTS if messages in talks else len(found) < len(GENERAL)
        if own and 0 < len(ids) <= min(LONGEST, context - TOKENS - 1):
            found.append(Ask(messages, text, framed, ids))
    if not found:
        raise BadInput("No prompt can be put to this model: its context is too short.")
    return found


def chatted(
    asks: Sequence[Ask], model: Path, dtype: str, folder: Path, device: loading.Device, tick: Tick, tell: Any
) -> list[Seen]:
    """What the trained model in `folder` says, loaded as the chat loads it, on the base in `model`."""
    from studio.engine.inference.adapter_slots import AdapterSlots

    seats = AdapterSlots(model, dtype, device, tell)
    seats.load("adapted", folder)
    (group,) = seats.groups(["adapted"])
    encoder_ends = _ends(model)
    found = []
    for number, ask in enumerate(asks):
        tick(number, len(asks))
        with group.as_wanted():
            answer = _greedy(group, ask.ids, encoder_ends)
            inner = group.model if group.virtual_tokens else group.inner
            found.append(_look(inner, ask.ids + answer, len(answer), device))
    tick(len(asks), len(asks))
    return found


def _ends(model: Path) -> int:
    told = (read_json(model / "generation_config.json") or {}).get("pad_token_id")
    return told if isinstance(told, int) else 0


def _greedy(group: Any, ids: list[int], pad_id: int) -> list[int]:
    """The likeliest answer of TOKENS tokens: what ends one does not stop it, so that every prompt gives as many."""
    import torch

    from studio.engine.inference import generation

    if group.virtual_tokens or not generation.can_answer(group.inner):
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=pad_id)
        group.set_generation(config)
        prompt = torch.tensor([ids], device=group.model.device)
        with torch.no_grad():
            made = group.model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
            )
        return [int(token) for token in made[0, len(ids) :]]
    said: list[int] = []

    def take(_: int, token: int) -> bool:
        said.append(token)
        return len(said) < TOKENS

    generation.answer(group.inner, generation.Rows([ids], take), generation.SamplingOptions(), pad_id)
    return said


def reread(model: Any, seen: Sequence[Seen], device: loading.Device, tick: Tick) -> list[Seen]:
    """What another model says at the same places of the same tokens."""
    found = []
    for number, one in enumerate(seen):
        tick(number, len(seen))
        found.append(_look(model, one.ids, one.answer, device))
    tick(len(seen), len(seen))
    return found


def first_place(ids: Sequence[int], answer: int) -> int:
    """From which place on logits are looked at."""
    return max(0, len(ids) - answer - BEFORE)


def _look(model: Any, ids: list[int], answer: int, device: loading.Device) -> Seen:
    import torch

    start = first_place(ids, answer)
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([ids], device=device.name)).logits[0]
    # A trained prompt or prefix stands before the tokens: they are the last places.
    return Seen(ids, start, answer, rows[-len(ids) :][start:].float().cpu())


def load_adapter(folder: Path, base: Path, dtype: str, device: loading.Device) -> Any:
    """An exported adapter as others load it. It names its base as others know it: in a copy it is this machine's."""
    import torch
    from peft import AutoPeftModelForCausalLM

    aside = folder.with_name(f".reload.{os.getpid()}.tmp")  # so named, what a kill leaves of it is tidied away
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(folder, aside)
    try:
        config = (read_json(aside / "adapter_config.json") or {}) | {"base_model_name_or_path": str(base)}
        write_json(aside / "adapter_config.json", config)
        model = AutoPeftModelForCausalLM.from_pretrained(
            str(aside), dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )
        return model.eval().to(device.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_merged(folder: Path, device: loading.Device) -> Any:
    """A merged model as others load it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", local_files_only=True, use_safetensors=True)
    return model.eval().to(device.name)


def own_words(folder: Path, asks: Sequence[Ask], data: Data) -> tuple[str, list[list[int]]]:
    """What the tokenizer and template in an artefact's folder make of the prompts: the template's sha256, empty for
    plain text, and each prompt's token ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if not _by_chat(data):
        return "", [_plain_ids(tokenizer, ask) for ask in asks]
    ids = []
    for ask in asks:
        made = tokenizer.apply_chat_template(
            with_system(ask.messages, data.system_prompt),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        ids.append([int(one) for one in made])
    return template_hash(template_source(folder) or ""), ids


def _plain_ids(tokenizer: Any, ask: Ask) -> list[int]:
    made = [int(one) for one in tokenizer(ask.text, add_special_tokens=ask.framed)["input_ids"]]
    # An end that the tokenizer adds is no part of a prompt.
    return made[: len(ask.ids)] if ask.framed else made


def _by_chat(data: Data) -> bool:
    return data.template == "chat" or bool(data.own_chat_template)


def template_hash(source: str) -> str:
    """What tells one template from another; empty for none."""
    return hashlib.sha256(source.encode()).hexdigest() if source else ""


def compare(
    kind: str, asks: Sequence[Ask], live: Sequence[Seen], other: Sequence[Seen], own: tuple[str, list[list[int]]],
    template: str,
) -> Parity:  # fmt: skip
    """The figures, judged. kind: of evaluation.parity.BOUNDS; own: what own_words gave; template: the sha256 of the one
    that was chatted with."""
    import torch

    correlations, apart, agreed, alike, tokens = [], 0.0, 0, 0, 0
    for one, two in zip(live, other, strict=True):
        width = min(one.logits.shape[-1], two.logits.shape[-1])  # some loaders leave padding of the vocabulary out
        mine, theirs = one.logits[:, :width], two.logits[:, :width]
        correlations.append(correlation(mine, theirs))
        apart = max(apart, float((mine - theirs).abs().max()))
        begin = len(one.ids) - one.answer - 1 - one.start  # the place whose likeliest token begins the answer
        same = (mine.argmax(-1) == theirs.argmax(-1))[begin:-1]
        agreed, tokens, alike = agreed + int(same.sum()), tokens + len(same), alike + bool(same.all())
    every = torch.cat(correlations)
    loader = LOADERS.get(kind.partition(" ")[0], LOADERS["gguf"])
    found = Parity(
        kind=kind,
        loader=loader,
        prompts=len(asks),
        places=len(every),
        tokens=tokens,
        correlation=float(every.min()),
        mean=float(every.mean()),
        max_abs=apart,
        agreement=agreed / max(1, tokens),
        alike=alike,
        template=template,
        own_template=own[0],
        same_tokens=sum(ask.ids == ids for ask, ids in zip(asks, own[1], strict=True)),
    )
    why = fault(found)
    return replace(found, passed=not why, reason=why)


def correlation(one: Any, other: Any) -> Any:
    """Pearson's correlation of two tables of logits, row by row."""
    import torch

    def centred(table: Any) -> Any:
        table = table.double()
        return table - table.mean(dim=-1, keepdim=True)

    return torch.nn.functional.cosine_similarity(centred(one), centred(other), dim=-1)
