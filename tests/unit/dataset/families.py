"""Tokenizers and chat templates of model families, for tests, with transformers' own tokenizer as the reference."""

import itertools
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from studio.dataset.record import Record
from studio.dataset.tokens.encode import Encoder, Whole
from studio.recipe.fields import Data

TEMPLATES = Path(__file__).parents[2] / "data" / "templates"
Messages = list[dict[str, str]]
BAR = "‖"


@dataclass(frozen=True)
class Family:
    """A template and what its tokenizer needs."""

    special: tuple[str, ...]
    bos: str
    eos: str
    end: str
    kind: str = "bytes"
    system: bool = True
    trims: bool = False
    rstrip: bool = False
    opening: str = ""
    words: tuple[str, ...] = ()  # added tokens that are no special ones
    file: str = ""


FAMILIES = {
    "chatml": Family(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_start|>", "<|im_end|>", "<|im_end|>"),
    "llama3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", trims=True,
    ),
    "mistral": Family(("<unk>", "<s>", "</s>"), "<s>", "</s>", "</s>", kind="metaspace", opening=" "),
    "mistral_v3": Family(
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", "</s>", kind="metaspace", trims=True, opening=" "
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>",
        kind="spaces", system=False, trims=True,
    ),
    "phi3": Family(
        ("<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"), "<s>",
        "<|endoftext|>", "<|end|>", kind="metaspace", rstrip=True,
    ),
    "qwen3": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "", "<|im_end|>", "<|im_end|>",
        opening="<think>\n\n</think>\n\n", words=("<think>", "</think>"),
    ),
}  # fmt: skip

_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THOUGHT = ("<think>", "</think>")
# Families by what they do with tools and thinking; the README of the folder says what is particular about each.
TOOL_FAMILIES = {name: FAMILIES[name] for name in ("qwen3", "llama3", "gemma")} | {
    "mistral_tools": Family(
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
         "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        "<s>", "</s>", "</s>", kind="metaspace", file="tools/mistral_tools.jinja",
    ),
    "hermes": Family(_CHATML, "<|endoftext|>", "<|im_end|>", "<|im_end|>", words=("<tool_call>", "</tool_call>"),
                     file="tools/hermes.jinja"),
    "phi4_mini": Family(
        ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|tool|>", "<|/tool|>"),
        "<|endoftext|>", "<|endoftext|>", "<|end|>", file="tools/phi4_mini.jinja",
    ),
    "deepseek_r1": Family(
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>", file="tools/deepseek_r1.jinja",
        words=("<｜User｜>", "<｜Assistant｜>", *_THOUGHT, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
               "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>",
               "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    ),
    "smollm3": Family(_CHATML, "", "<|im_end|>", "<|im_end|>", words=_THOUGHT, file="tools/smollm3.jinja"),
}  # fmt: skip


def make_tokenizer(family: Family) -> Tokenizer:
    """Bytes, or single characters with sentencepiece's ▁ for a space, and the family's special tokens."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    if family.kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: index for index, token in enumerate([*family.special, *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        merges = [("▁", letter) for letter in letters]
        pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127)), *map("".join, merges)]
        vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*family.special, *pieces]))}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
        if family.kind == "spaces":
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=family.rstrip) for token in family.special]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in family.words])
    return tokenizer


@cache
def folder_of(name: str, template: str = "") -> Path:
    """What of a model's folder the encoder reads."""
    family = (FAMILIES | TOOL_FAMILIES)[name]
    folder = Path(mkdtemp()) / name
    folder.mkdir()
    make_tokenizer(family).save(str(folder / "tokenizer.json"))
    tokens = {"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    file = TEMPLATES / (family.file or f"{name}.jinja")
    (folder / "chat_template.jinja").write_text(template or file.read_text())
    with_tools = file.with_suffix(".tool_use.jinja")
    if not template and with_tools.is_file():
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(with_tools.read_text())
    return folder


@cache
def encoder_of(name: str, train_on: str, template: str = "") -> Encoder:
    return Encoder(folder_of(name, template), Data.model_validate({"train_on": train_on}))


@cache
def tokenizer_of(name: str) -> Any:
    """transformers' own tokenizer of the same folder."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder_of(name))


@cache
def reference_of(name: str) -> Any:
    """transformers' own tokenizer over the same file, with the marked template."""
    from transformers import PreTrainedTokenizerFast

    folder = folder_of(name)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), **json.loads((folder / "tokenizer_config.json").read_text())
    )
    tokenizer.chat_template = (TEMPLATES / f"{name}.marked.jinja").read_text()
    return tokenizer


def talk(*turns: str, system: str = "") -> Messages:
    """A conversation: user and assistant take turns."""
    roles = itertools.cycle(["user", "assistant"])
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return [{"role": "system", "content": system}, *messages] if system else messages


def trained(encoder: Encoder, whole: Whole) -> str:
    """The text of the trained tokens, with BAR between answers."""
    return BAR.join(
        encoder.tokenizer.decode(whole.input_ids[start:end], skip_special_tokens=False) for start, end in whole.spans
    )


def encode(name: str, train_on: str, messages: Messages, template: str = "") -> tuple[Encoder, Whole]:
    encoder = encoder_of(name, train_on, template)
    return encoder, encoder.encode([Record(1, messages)])[0]
