"""Convert records to the `input_ids` and `labels` used for training, without torch or transformers.

Pages show the output of this module and the trainer uses it unchanged. The trained tokens are exactly the assistant's
and the marker that ends them (masks.py), or all tokens if the recipe says so. Examples are cut after max_length tokens;
those left without a trained token are dropped and counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from studio.dataset.record import Message, Record
from studio.dataset.tokens import template as templates
from studio.dataset.tokens.abilities import Abilities
from studio.dataset.tokens.masks import Span
from studio.dataset.tokens.remarks import NOTHING, Remark
from studio.dataset.tokens.rendering import ChatRenderer, PlainRenderer, Rendered
from studio.dataset.tokens.template import Tool
from studio.dataset.tokens.token_spans import token_spans
from studio.errors import BadInput
from studio.recipe.fields import Data
from studio.rundir import read_json

IGNORED = -100  # torch's cross_entropy ignore_index: the label of a token that is not trained
CHUNK = 1024  # rows tokenised at once
REFUSED_KEPT = 1000  # refused rows listed with their reason; the rest are only counted


@dataclass(frozen=True, slots=True)
class Example:
    """Input of the trainer: token ids and labels of equal length, at most max_length; -100 is not trained."""

    row: int
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Tokenised:
    """An example before the cut: all its tokens, and which of them are trained.

    spans: token ranges [start, end), in order, one for each trained answer. held_out: whether the dataset itself holds
    the example out. remarks: what template and tokenizer do to it. left_out: tokens of thinking that the template
    leaves out.
    """

    row: int
    input_ids: list[int]
    spans: tuple[Span, ...]
    held_out: bool = False
    remarks: Remark = NOTHING
    left_out: int = 0

    def split(self, max_length: int) -> "list[Tokenised]":
        """Its consecutive parts of at most max_length tokens, if it is plain text; itself otherwise."""
        if Remark.PLAIN_TEXT not in self.remarks or len(self.input_ids) <= max_length:
            return [self]
        starts = range(0, len(self.input_ids), max_length)
        parts = (self.input_ids[start : start + max_length] for start in starts)
        return [Tokenised(self.row, part, ((0, len(part)),), self.held_out, self.remarks) for part in parts]

    def cut(self, max_length: int) -> Example:
        ids = self.input_ids[:max_length]
        labels = [IGNORED] * len(ids)
        for start, end in self.spans:
            labels[start:end] = ids[start:end]
        return Example(self.row, ids, labels)


@dataclass(frozen=True, slots=True)
class Whole(Tokenised):
    """A tokenised example with its text."""

    text: str = ""


@dataclass(slots=True)
class Refused:
    """Rows that the template cannot render: the first REFUSED_KEPT with their reason, and the total number."""

    rows: list[tuple[int, str]] = field(default_factory=list)
    total: int = 0

    def add(self, row: int, reason: str) -> None:
        self.total += 1
        if len(self.rows) < REFUSED_KEPT:
            self.rows.append((row, reason))


class Encoder:
    """Render and tokenise records as in training, for one model folder and the data section of a recipe."""

    def __init__(self, model_folder: Path, data: Data) -> None:
        self._folder, self._data = model_folder, data
        self.tokenizer = load_tokenizer(model_folder)
        self.special = templates.special_tokens(model_folder)
        self._eos = self.special.get("eos_token", "")
        bos = self.special.get("bos_token", "")
        self._renderer: ChatRenderer | PlainRenderer
        if data.template == "chat":
            chat = templates.ChatTemplate.of_model(model_folder)
            self._renderer = ChatRenderer(chat, data, self._eos, bos, self._ends)
        elif data.own_chat_template:
            chat = templates.ChatTemplate(data.own_chat_template, self.special, "this recipe")
            self._renderer = ChatRenderer(chat, data, self._eos, bos, self._ends)
        else:
            plain = templates.PlainTemplate(data.custom_template) if data.template == "custom" else None
            self._renderer = PlainRenderer(plain, data, self._eos, bos)

    @cached_property
    def eos_ids(self) -> list[int]:
        """Every token id that ends an answer."""
        value = (read_json(self._folder / "generation_config.json") or {}).get("eos_token_id")
        if value is None:
            value = (read_json(self._folder / "config.json") or {}).get("eos_token_id")
        ids = [value] if isinstance(value, int) else list(value or [])
        own = self.tokenizer.token_to_id(self._eos)
        return ids if own is None or own in ids else [*ids, own]

    @cached_property
    def pad_id(self) -> int:
        """The id used for padding; never trained."""
        own = self.tokenizer.token_to_id(self.special.get("pad_token", ""))
        return own if own is not None else (self.eos_ids or [0])[0]

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of special tokens, which represent no text."""
        return {id_ for id_, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}

    @cached_property
    def _ends(self) -> set[str]:
        """The special tokens that can end an answer, as text."""
        ids = self.special_ids | set(self.eos_ids)
        ends = {self.tokenizer.id_to_token(id_) or "" for id_ in ids} | {self._eos}
        # The bos token does not end an answer, unless it is also the eos token.
        return ends - ({self.special.get("bos_token", "")} - {self._eos})

    @property
    def abilities(self) -> Abilities | None:
        """What the chat template can write; None for plain text."""
        return self._renderer.abilities if isinstance(self._renderer, ChatRenderer) else None

    def examples(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records as they are trained: each conversation, or one for each of its answers (`per_answer`)."""
        if not self._data.per_answer:
            yield from records
            return
        for record in records:
            answers = [at for at, message in enumerate(record.messages) if message["role"] == "assistant"]
            trained = [at for at in answers if record.messages[at].get("train", True)]
            if len(answers) < 2 or not trained:
                yield record
                continue
            for at in trained:
                yield replace(record, messages=record.messages[: at + 1])

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[str, bool]:
        """The text of a conversation followed by the opening of the next answer, and whether the tokenizer adds its bos
        token to it."""
        return self._renderer.prompt(messages, tools)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Token ids of a conversation followed by the opening of the next answer."""
        prompt, framed = self.prompt_text(messages, tools)
        encoding = self.tokenizer.encode(prompt, add_special_tokens=framed)
        ids = list(encoding.ids)
        while framed and prompt and encoding.offsets[len(ids) - 1] == (0, 0):
            ids.pop()  # an end token added by the tokenizer: the answer is still to come
        return ids

    @property
    def chat_source(self) -> str:
        """Source of the chat template used for prompts; empty for plain text."""
        return self._renderer.source

    def encode(self, records: Sequence[Record], refused: Refused | None = None) -> list[Whole]:
        """Tokenise records, in order.

        Rows that cannot be rendered are left out and added to `refused`; without it, BadInput names the row.
        """
        texts = self._texts(list(self.examples(records)), refused)
        encodings = self._batch(texts)
        wholes = []
        for item, encoding in zip(texts, encodings, strict=True):
            made = self._tokenised(item, encoding)
            wholes.append(
                Whole(made.row, made.input_ids, made.spans, made.held_out, made.remarks, made.left_out, item.text)
            )
        return wholes

    def count(self, records: Sequence[Record], refused: Refused | None = None) -> list[Tokenised]:
        """Tokenise records like `encode`, but without keeping the texts, to save memory.

        The result has one entry per example; a refused one has 0 tokens.
        """
        rejected = Refused() if refused is None else refused
        examples = next(self.count_all([records], rejected), [])
        if refused is None and rejected.total:
            row, reason = rejected.rows[0]
            raise BadInput(f"Row {row}: {reason}")
        return examples

    def count_all(self, chunks: Iterable[Sequence[Record]], refused: Refused) -> Iterator[list[Tokenised]]:
        """Apply `count` to many chunks: while one is tokenised, the next is read and rendered."""
        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as executor:
            ahead: tuple[Sequence[Record], list[Rendered], Future[list[Encoding]]] | None = None
            for records in chunks:
                chunk = list(self.examples(records))
                texts = self._texts(chunk, refused)
                tokens = executor.submit(self._batch, texts)
                if ahead is not None:
                    yield self._counted(*ahead)
                ahead = (chunk, texts, tokens)
            if ahead is not None:
                yield self._counted(*ahead)

    def pieces(self, whole: Whole) -> list[str]:
        """The text of each token of an example. A character split into several tokens is assigned to the first."""
        encoding = self.tokenizer.encode(whole.text, add_special_tokens=False)
        if encoding.ids != whole.input_ids:
            encoding = self.tokenizer.encode(whole.text, add_special_tokens=True)
        if encoding.ids != whole.input_ids:
            raise AssertionError("an example was tokenised differently for display and for training")
        pieces, reached = [], 0
        for (_, end), token, added in zip(encoding.offsets, encoding.tokens, encoding.special_tokens_mask, strict=True):
            # Some tokenizers trim white space from their offsets: text between two tokens is assigned to the second.
            pieces.append(token if added and end <= reached else whole.text[reached:end])
            reached = max(reached, end)
        if pieces:
            pieces[-1] += whole.text[reached:]
        return pieces

    def _tokenised(self, item: Rendered, encoding: Encoding) -> Tokenised:
        """An example from its text and tokens."""
        ids, remarks = encoding.ids, item.remarks
        if item.trained is None:
            spans: tuple[Span, ...] = ((0, len(ids)),) if ids else ()
        else:
            spans = token_spans(encoding, item.text, item.trained, self.special_ids)
            if spans and item.trained and item.follows and self._is_merged(encoding, spans[0][0], item.trained[0][0]):
                remarks |= Remark.MERGED_START
        if len(ids) > 1 and ids[0] == ids[1] == self._bos_id:
            remarks |= Remark.DOUBLE_BOS
        left_out = 0
        if item.thoughts:
            left_out = len(self.tokenizer.encode(item.thoughts, add_special_tokens=False).ids)
        return Tokenised(item.record.row, ids, spans, item.record.held_out, remarks, left_out)

    @staticmethod
    def _is_merged(encoding: Encoding, token: int, start: int) -> bool:
        """Whether the first trained token also holds characters of the prompt."""
        around = encoding.token_to_chars(token)
        return around is not None and around[0] < start < around[1]

    @cached_property
    def _bos_id(self) -> int | None:
        bos = self.special.get("bos_token", "")
        return self.tokenizer.token_to_id(bos) if bos else None

    def _counted(
        self, records: Sequence[Record], texts: list[Rendered], tokens: "Future[list[Encoding]]"
    ) -> list[Tokenised]:
        encoded = {id(item.record): (item, encoding) for item, encoding in zip(texts, tokens.result(), strict=True)}
        examples = []
        for record in records:
            if id(record) in encoded:
                examples.append(self._tokenised(*encoded[id(record)]))
            else:
                examples.append(Tokenised(record.row, [], (), record.held_out))
        return examples

    def _texts(self, records: Sequence[Record], refused: Refused | None) -> list[Rendered]:
        texts = []
        for record in records:
            try:
                texts.append(self._renderer.render(record))
            except BadInput as error:
                if refused is None:
                    raise BadInput(f"Row {record.row}: {error}") from None
                refused.add(record.row, str(error))
        return texts

    def _batch(self, texts: list[Rendered]) -> list[Encoding]:
        framed = bool(texts) and texts[0].framed
        if any(item.framed != framed for item in texts):
            return [self.tokenizer.encode(item.text, add_special_tokens=item.framed) for item in texts]
        # Offsets take some time and are only needed for spans.
        needed = any(item.trained is not None for item in texts)
        encode = self.tokenizer.encode_batch if needed else self.tokenizer.encode_batch_fast
        return encode([item.text for item in texts], add_special_tokens=framed)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a model folder, without the padding or truncation its file may configure.

    The most recent one is cached while its file is unchanged and shared by callers: do not modify it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadInput(f"{folder.name} has no tokenizer.json. Save its tokenizer in the fast format and add it again.")
    status = path.stat()
    return _read_tokenizer(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)  # loading takes a tenth of a second, and tens of megabytes
def _read_tokenizer(path: Path, _changed: int, _size: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a broken file
        raise BadInput(f"{path} is not a readable tokenizer: {error}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
