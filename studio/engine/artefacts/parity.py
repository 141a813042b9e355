"""Measure parity between the chat's model and an artefact (defined in evaluation/parity.py).

    asks = choose(...)               the prompts, formatted as in the chat
    live = chatted(...)              the trained model, loaded as in the chat: answers, and logits at some positions
    other = reread(model, live)      an artefact's logits at the same positions of the same tokens
    result = compare(...)            the figures, checked against the bound of the kind

Logits are kept for a few positions of each prompt only: with a large vocabulary all of them would take gigabytes.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.dataset.record import Message
from studio.dataset.tokens.encode import Encoder
from studio.dataset.tokens.template import template_source, with_system
from studio.engine.inference import loading
from studio.errors import BadInput
from studio.evaluation.parity import LOADERS, Parity, fault
from studio.recipe.fields import Data
from studio.rundir import read_json, write_json

PROMPTS = 8
TOKENS = 24  # per answer
BEFORE = 16  # positions compared before the first token of an answer
LONGEST = 512  # tokens of a prompt: longer ones make the check slower, not better
# Used if the run has too few held-out examples.
GENERAL = (
    "What is 12 plus 30? Answer with one short sentence.",
    "Name three colours.",
    "Write one sentence about the sea.",
    "Which day comes after Monday?",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt: its messages, the text the chat template gives, and the token ids of the text."""

    messages: list[Message]
    text: str
    framed: bool
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Seen:
    """A prompt with its answer, and a model's logits (positions × vocabulary, float32) from position `start` on."""

    ids: list[int]
    start: int
    answer: int  # number of tokens in the answer
    logits: Any


Tick = Callable[[int, int], None]


def choose(talks: Sequence[list[Message]], encoder: Encoder, context: int) -> list[Ask]:
    """Choose the prompts: the first of `talks` that are short enough, then general ones."""
    asks: list[Ask] = []
    general: list[list[Message]] = [[{"role": "user", "content": text}] for text in GENERAL]
    for messages in [*talks, *general]:
        try:
            text, framed = encoder.prompt_text(messages)
            ids = encoder.prompt_ids(messages)
        except BadInput:
            continue  # a template that cannot format it here cannot in the chat either
        own = len(asks) < PROMPTS if messages in talks else len(asks) < len(GENERAL)
        if own and 0 < len(ids) <= min(LONGEST, context - TOKENS - 1):
            asks.append(Ask(messages, text, framed, ids))
    if not asks:
        raise BadInput("The model's context is too short for any of the test prompts.")
    return asks


def chatted(
    asks: Sequence[Ask], model: Path, dtype: str, folder: Path, device: loading.Device, tick: Tick, tell: Any
) -> list[Seen]:
    """Run the trained model in `folder` on the base in `model`, loaded as the chat loads it."""
    from studio.engine.inference.adapter_slots import AdapterSlots

    slots = AdapterSlots(model, dtype, device, tell)
    slots.load("adapted", folder)
    (group,) = slots.groups(["adapted"])
    pad_id = _pad_id(model)
    readings = []
    for number, ask in enumerate(asks):
        tick(number, len(asks))
        with group.as_wanted():
            answer = _greedy(group, ask.ids, pad_id)
            inner = group.model if group.virtual_tokens else group.inner
            readings.append(_look(inner, ask.ids + answer, len(answer), device))
    tick(len(asks), len(asks))
    return readings


def _pad_id(model: Path) -> int:
    pad_id = (read_json(model / "generation_config.json") or {}).get("pad_token_id")
    return pad_id if isinstance(pad_id, int) else 0


def _greedy(group: Any, ids: list[int], pad_id: int) -> list[int]:
    """Generate TOKENS tokens greedily; end tokens do not stop it, so that every prompt gives the same number."""
    import torch

    from studio.engine.inference import generation

    if group.virtual_tokens or not generation.can_answer(group.inner):
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=pad_id)
        group.set_generation(config)
        prompt = torch.tensor([ids], device=group.model.device)
        with torch.no_grad():
            generated = group.model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
            )
        return [int(token) for token in generated[0, len(ids) :]]
    tokens: list[int] = []

    def take(_: int, token: int) -> bool:
        tokens.append(token)
        return len(tokens) < TOKENS

    generation.answer(group.inner, generation.Rows([ids], take), generation.SamplingOptions(), pad_id)
    return tokens


def reread(model: Any, seen: Sequence[Seen], device: loading.Device, tick: Tick) -> list[Seen]:
    """Run another model and read its logits at the same positions of the same tokens."""
    readings = []
    for number, reading in enumerate(seen):
        tick(number, len(seen))
        readings.append(_look(model, reading.ids, reading.answer, device))
    tick(len(seen), len(seen))
    return readings


def first_place(ids: Sequence[int], answer: int) -> int:
    """Return the first position whose logits are compared."""
    return max(0, len(ids) - answer - BEFORE)


def _look(model: Any, ids: list[int], answer: int, device: loading.Device) -> Seen:
    import torch

    start = first_place(ids, answer)
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([ids], device=device.name)).logits[0]
    # Virtual tokens come before the text, so the text is at the last positions.
    return Seen(ids, start, answer, rows[-len(ids) :][start:].float().cpu())


def load_adapter(folder: Path, base: Path, dtype: str, device: loading.Device) -> Any:
    """Load an exported adapter with plain PEFT, from a copy whose base is set to the folder on this machine."""
    import torch
    from peft import AutoPeftModelForCausalLM

    aside = folder.with_name(f".reload.{os.getpid()}.tmp")  # `tidy` deletes this name if the worker is killed
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
    """Load a merged model with plain transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", local_files_only=True, use_safetensors=True)
    return model.eval().to(device.name)


def own_words(folder: Path, asks: Sequence[Ask], data: Data) -> tuple[str, list[list[int]]]:
    """Format and tokenise the prompts with the files in an artefact's folder.

    Returns the sha256 of the chat template, empty for plain text, and the token ids of each prompt.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if not _by_chat(data):
        return "", [_plain_ids(tokenizer, ask) for ask in asks]
    ids = []
    for ask in asks:
        tokens = tokenizer.apply_chat_template(
            with_system(ask.messages, data.system_prompt),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        ids.append([int(token) for token in tokens])
    return template_hash(template_source(folder) or ""), ids


def _plain_ids(tokenizer: Any, ask: Ask) -> list[int]:
    ids = [int(token) for token in tokenizer(ask.text, add_special_tokens=ask.framed)["input_ids"]]
    # Cut off an end token that the tokenizer adds.
    return ids[: len(ask.ids)] if ask.framed else ids


def _by_chat(data: Data) -> bool:
    return data.template == "chat" or bool(data.own_chat_template)


def template_hash(source: str) -> str:
    """sha256 of a template's source; empty for no template."""
    return hashlib.sha256(source.encode()).hexdigest() if source else ""


def compare(
    kind: str, asks: Sequence[Ask], live: Sequence[Seen], other: Sequence[Seen], own: tuple[str, list[list[int]]],
    template: str,
) -> Parity:  # fmt: skip
    """Compute the parity figures and check them against the bound.

    kind: a key of evaluation.parity.BOUNDS; own: the result of own_words; template: sha256 of the chat's template.
    """
    import torch

    correlations, max_abs, agreed, identical, tokens = [], 0.0, 0, 0, 0
    for reference, reading in zip(live, other, strict=True):
        # Some loaders leave out the padding of the vocabulary.
        width = min(reference.logits.shape[-1], reading.logits.shape[-1])
        mine, theirs = reference.logits[:, :width], reading.logits[:, :width]
        correlations.append(correlation(mine, theirs))
        max_abs = max(max_abs, float((mine - theirs).abs().max()))
        # The position that predicts the first token of the answer.
        begin = len(reference.ids) - reference.answer - 1 - reference.start
        same = (mine.argmax(-1) == theirs.argmax(-1))[begin:-1]
        agreed, tokens, identical = agreed + int(same.sum()), tokens + len(same), identical + bool(same.all())
    joined = torch.cat(correlations)
    loader = LOADERS.get(kind.partition(" ")[0], LOADERS["gguf"])
    result = Parity(
        kind=kind,
        loader=loader,
        prompts=len(asks),
        places=len(joined),
        tokens=tokens,
        correlation=float(joined.min()),
        mean=float(joined.mean()),
        max_abs=max_abs,
        agreement=agreed / max(1, tokens),
        alike=identical,
        template=template,
        own_template=own[0],
        same_tokens=sum(ask.ids == ids for ask, ids in zip(asks, own[1], strict=True)),
    )
    why = fault(result)
    return replace(result, passed=not why, reason=why)


def correlation(one: Any, other: Any) -> Any:
    """Pearson correlation of two tables of logits, row by row."""
    import torch

    def centred(table: Any) -> Any:
        table = table.double()
        return table - table.mean(dim=-1, keepdim=True)

    return torch.nn.functional.cosine_similarity(centred(one), centred(other), dim=-1)
