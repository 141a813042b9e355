"""Convert records to the `input_ids` and `labels` used for training, without torch or transformers.

Pages show the output of this module and the trainer uses it unchanged. The trained tokens are exactly the assistant's
and the marker that ends them (masks.py), or all tokens if the recipe says so. Examples are cut after max_length tokens;
those left without a trained token are dropped and counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from studio.dataset.read.formats import Message, Record
from studio.dataset.tokens import template as templates
from studio.dataset.tokens.masks import Marker, Span, token_spans
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
    the example out.
    """

    row: int
    input_ids: list[int]
    spans: tuple[Span, ...]
    held_out: bool = False

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


@dataclass(frozen=True, slots=True)
class _Text:
    """Rendered text of a record.

    trained: character ranges that are trained (None: all). framed: whether the tokenizer adds its special tokens around
    the text, as for plain text; a chat template writes them itself.
    """

    record: Record
    text: str
    trained: list[Span] | None
    framed: bool


class Encoder:
    """Render and tokenise records as in training, for one model folder and the data section of a recipe."""

    def __init__(self, model_folder: Path, data: Data) -> None:
        self._folder, self._data = model_folder, data
        self.tokenizer = load_tokenizer(model_folder)
        self.special = templates.special_tokens(model_folder)
        self._eos = self.special.get("eos_token", "")
        self._chat: templates.ChatTemplate | None = None
        self._plain: templates.PlainTemplate | None = None
        if data.template == "chat":
            self._chat = templates.ChatTemplate.of_model(model_folder)
        elif data.own_chat_template:
            self._chat = templates.ChatTemplate(data.own_chat_template, self.special, "this recipe")
        elif data.template == "custom":
            self._plain = templates.PlainTemplate(data.custom_template)

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
    def _marker(self) -> Marker:
        assert self._chat is not None
        ids = self.special_ids | set(self.eos_ids)
        ends = {self.tokenizer.id_to_token(id_) or "" for id_ in ids} | {self._eos}
        # The bos token does not end an answer, unless it is also the eos token.
        return Marker(self._chat, ends - ({self.special.get("bos_token", "")} - {self._eos}))

    def prompt_text(self, messages: list[Message]) -> tuple[str, bool]:
        """The text of a conversation followed by the opening of the next answer, and whether the tokenizer adds its bos
        token to it."""
        if self._chat is not None:
            conversation = templates.with_system(messages, self._data.system_prompt)
            return self._chat.render(conversation, add_generation_prompt=True), False
        question = next((item["content"] for item in reversed(messages) if item["role"] == "user"), "")
        prompt = self._prompt(question, "", _system_of(messages) or self._data.system_prompt)
        return prompt, self._framed(prompt)

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """Token ids of a conversation followed by the opening of the next answer."""
        prompt, framed = self.prompt_text(messages)
        encoding = self.tokenizer.encode(prompt, add_special_tokens=framed)
        ids = list(encoding.ids)
        while framed and prompt and encoding.offsets[len(ids) - 1] == (0, 0):
            ids.pop()  # an end token added by the tokenizer: the answer is still to come
        return ids

    @property
    def chat_source(self) -> str:
        """Source of the chat template used for prompts; empty for plain text."""
        return "" if self._chat is None else self._chat.source

    def encode(self, records: Sequence[Record], refused: Refused | None = None) -> list[Whole]:
        """Tokenise records, in order.

        Rows that cannot be rendered are left out and added to `refused`; without it, BadInput names the row.
        """
        texts = self._texts(records, refused)
        encodings = self._batch(texts)
        return [
            Whole(item.record.row, encoding.ids, self._spans(item, encoding), item.record.held_out, item.text)
            for item, encoding in zip(texts, encodings, strict=True)
        ]

    def count(self, records: Sequence[Record], refused: Refused | None = None) -> list[Tokenised]:
        """Tokenise records like `encode`, but without keeping the texts, to save memory.

        The result has one entry per record; a refused one has 0 tokens.
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
            ahead: tuple[Sequence[Record], list[_Text], Future[list[Encoding]]] | None = None
            for chunk in chunks:
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

    def _spans(self, item: _Text, encoding: Encoding) -> tuple[Span, ...]:
        if item.trained is None:
            return ((0, len(encoding)),) if len(encoding) else ()
        return token_spans(encoding, item.text, item.trained, self.special_ids)

    def _counted(
        self, records: Sequence[Record], texts: list[_Text], tokens: "Future[list[Encoding]]"
    ) -> list[Tokenised]:
        encoded = {id(item.record): (item, encoding) for item, encoding in zip(texts, tokens.result(), strict=True)}
        examples = []
        for record in records:
            if id(record) in encoded:
                item, encoding = encoded[id(record)]
                examples.append(Tokenised(record.row, encoding.ids, self._spans(item, encoding), record.held_out))
            else:
                examples.append(Tokenised(record.row, [], (), record.held_out))
        return examples

    def _texts(self, records: Sequence[Record], refused: Refused | None) -> list[_Text]:
        texts = []
        for record in records:
            try:
                texts.append(self._text(record))
            except BadInput as error:
                if refused is None:
                    raise BadInput(f"Row {record.row}: {error}") from None
                refused.add(record.row, str(error))
        return texts

    def _text(self, record: Record) -> _Text:
        """Render the text of a record and mark the trained parts."""
        whole = self._data.train_on == "everything"
        if not record.messages:
            return _Text(record, record.text + self._eos, None, self._framed(record.text))
        if self._chat is not None:
            messages = templates.with_system(record.messages, self._data.system_prompt)
            if whole:
                return _Text(record, self._chat.render(messages), None, framed=False)
            text, spans = self._marker.mark(messages, every=self._data.train_on == "assistant")
            return _Text(record, text, spans, framed=False)
        answer = templates.single_turn(record, "the Alpaca text" if self._plain is None else "this template")
        system = _system_of(record.messages) or self._data.system_prompt
        prompt = self._prompt(record.instruction, record.input, system)
        ending = "" if self._plain is None else self._plain.ending
        if not self._eos or self._eos not in ending:
            ending += self._eos
        # Text after the end marker is not part of the model's answer.
        end = len(prompt) + len(answer) + (ending.index(self._eos) + len(self._eos) if self._eos else len(ending))
        text = prompt + answer + ending
        return _Text(record, text, None if whole else [(len(prompt), end)], self._framed(prompt))

    def _prompt(self, instruction: str, extra: str, system: str) -> str:
        if self._plain is not None:
            return self._plain.prompt(instruction, extra, system)
        return templates.before(system, templates.alpaca_prompt(instruction, extra))

    def _framed(self, text: str) -> bool:
        """Whether the tokenizer adds its bos token to a plain text: not if the text already starts with it."""
        bos = self.special.get("bos_token")
        return not (bos and text.startswith(bos))

    def _batch(self, texts: list[_Text]) -> list[Encoding]:
        framed = bool(texts) and texts[0].framed
        if any(item.framed != framed for item in texts):
            return [self.tokenizer.encode(item.text, add_special_tokens=item.framed) for item in texts]
        # Offsets take some time and are only needed for spans.
        needed = any(item.trained is not None for item in texts)
        encode = self.tokenizer.encode_batch if needed else self.tokenizer.encode_batch_fast
        return encode([item.text for item in texts], add_special_tokens=framed)


def _system_of(messages: list[Message]) -> str:
    return messages[0]["content"] if messages and messages[0]["role"] == "system" else ""


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
