"""From records to the very `input_ids` and `labels` that are trained on, without torch or transformers.

Pages show what this module makes and the trainer is handed it unchanged. Labels follow TRL's completion-only rule
(`SFTTrainer._prepare_dataset`): the trained part begins where the tokens of prompt and prompt + completion diverge,
examples are cut after max_length tokens, and examples left without a trained token are dropped, and counted.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from studio.dataset import template as templates
from studio.dataset.formats import Message, Record
from studio.dataset.store import read_records
from studio.errors import BadInput
from studio.rundir import read_json
from studio.themes import Data

IGNORED = -100  # torch's cross_entropy ignore_index: the label of a token that is not trained
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Example:
    """What the trainer gets: token ids and labels of equal length, at most max_length; -100 is not trained."""

    row: int
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Whole:
    """An example before the cut: its text, all its tokens, and where the trained part begins."""

    row: int
    text: str
    input_ids: list[int]
    trained_from: int

    def cut(self, max_length: int) -> Example:
        start = self.trained_from
        ids = self.input_ids[:max_length]
        return Example(self.row, ids, [IGNORED] * min(start, len(ids)) + ids[start:])


@dataclass(slots=True)
class Encoded:
    """A dataset ready to train on, and what was left out of it."""

    train: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)
    skipped: int = 0
    truncated: int = 0
    notes: list[str] = field(default_factory=list)


class Encoder:
    """Renders and tokenises as training does, for one model folder and the data part of a recipe."""

    def __init__(self, model_folder: Path, data: Data) -> None:
        self._folder, self._data = model_folder, data
        self.tokenizer = load_tokenizer(model_folder)
        self.special = templates.special_tokens(model_folder)
        if data.template == "chat":
            self._chat = templates.ChatTemplate.of_model(model_folder)

    @cached_property
    def eos_ids(self) -> list[int]:
        """Every token id that ends an answer."""
        told = (read_json(self._folder / "generation_config.json") or {}).get("eos_token_id")
        if told is None:
            told = (read_json(self._folder / "config.json") or {}).get("eos_token_id")
        ids = [told] if isinstance(told, int) else list(told or [])
        own = self.tokenizer.token_to_id(self.special.get("eos_token", ""))
        return ids if own is None or own in ids else [*ids, own]

    @cached_property
    def pad_id(self) -> int:
        """The id that fills short rows up; never trained."""
        own = self.tokenizer.token_to_id(self.special.get("pad_token", ""))
        return own if own is not None else (self.eos_ids or [0])[0]

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of tokens that stand for no text."""
        return {id_ for id_, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """Token ids of a conversation with the opening of the next answer behind it."""
        if self._data.template == "alpaca":
            question = next((item["content"] for item in reversed(messages) if item["role"] == "user"), "")
            return list(self.tokenizer.encode(templates.alpaca_prompt(question)).ids)
        text = self._chat.render(templates.with_system(messages, self._data.system_prompt), add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, records: list[Record]) -> list[Whole]:
        """Tokenise records; raises BadInput that names the row whose text cannot be made."""
        pairs = [self._texts(record) for record in records]
        plain = self._data.template == "alpaca"
        prompts = self._batch([prompt for prompt, _ in pairs], plain)
        fulls = self._batch([full for _, full in pairs], plain)
        wholes = []
        for record, (_, text), prompt, full in zip(records, pairs, prompts, fulls, strict=True):
            trained_from = 0
            if record.messages and self._data.train_on == "completions":
                trained_from = _common_prefix(prompt, full)
            wholes.append(Whole(record.row, text, full, trained_from))
        return wholes

    def pieces(self, whole: Whole) -> list[str]:
        """The text behind each token of an example. A character that takes several tokens stands with its first."""
        encoding = self.tokenizer.encode(whole.text, add_special_tokens=self._data.template == "alpaca")
        if encoding.ids != whole.input_ids:
            raise AssertionError("an example was tokenised differently for showing and for training")
        pieces, reached = [], 0
        for (start, end), token in zip(encoding.offsets, encoding.tokens, strict=True):
            special = start == end
            pieces.append(token if special else whole.text[max(start, reached) : end])
            reached = max(reached, end)
        return pieces

    def _texts(self, record: Record) -> tuple[str, str]:
        """Prompt and whole text of a record."""
        eos = self.special.get("eos_token", "")
        if not record.messages:
            return "", record.text + eos
        if self._data.template == "alpaca":
            prompt, answer = templates.alpaca_parts(record)
            return prompt, prompt + answer + eos
        messages = templates.with_system(record.messages, self._data.system_prompt)
        try:
            return self._chat.render(messages[:-1], add_generation_prompt=True), self._chat.render(messages)
        except BadInput as error:
            raise BadInput(f"Row {record.row}: {error}") from None

    def _batch(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, without the padding or truncation that its file may ask for."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadInput(f"{folder.name} has no tokenizer.json. Save its tokenizer in the fast format and add it again.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a broken file
        raise BadInput(f"{path} is not a readable tokenizer: {error}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode_dataset(
    folder: Path, data: Data, model_folder: Path, seed: int, progress: Callable[[int, int], None] | None = None
) -> Encoded:
    """All examples of the dataset in `folder`, split and cut, in the order of the source file.

    seed: of the split (the recipe's). progress: called with (done, of).
    """
    records = read_records(folder)
    encoder = Encoder(model_folder, data)
    out = held_out_rows(records, data.held_out, seed)
    encoded = Encoded()
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        for record, whole in zip(chunk, encoder.encode(chunk), strict=True):
            example = whole.cut(data.max_length)
            encoded.truncated += len(whole.input_ids) > data.max_length
            if all(label == IGNORED for label in example.labels):
                encoded.skipped += 1
            else:
                (encoded.held_out if record.row in out or record.held_out else encoded.train).append(example)
        if progress is not None:
            progress(min(start + _CHUNK, len(records)), len(records))
    if encoded.skipped:
        encoded.notes.append(
            f"{encoded.skipped} examples have no trained token within {data.max_length} tokens and are left out."
        )
    if encoded.truncated:
        encoded.notes.append(f"{encoded.truncated} examples are cut at max_length {data.max_length}.")
    return encoded


def held_out_rows(records: list[Record], share: float, seed: int) -> set[int]:
    """Row numbers that a share and a seed keep out of training.

    Rows are ordered by a hash of their content, so equal rows fall on the same side. A dataset that brings
    held-out rows of its own is left as it is.
    """
    if share <= 0 or len(records) < 2 or any(record.held_out for record in records):
        return set()
    groups: dict[str, list[int]] = {}
    for record in records:
        content = json.dumps([seed, record.messages, record.text], ensure_ascii=False)
        groups.setdefault(hashlib.sha256(content.encode()).hexdigest(), []).append(record.row)
    want = min(max(1, round(share * len(records))), len(records) - 1)
    out: set[int] = set()
    for key in sorted(groups):
        if len(out) + len(groups[key]) <= want:
            out.update(groups[key])
    return out


def _common_prefix(left: list[int], right: list[int]) -> int:
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length
