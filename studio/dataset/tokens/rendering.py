"""Render the text of an example and mark its trained parts, in characters: with a chat template, or as plain text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from studio.dataset.record import Message, Record, system_prompt_of
from studio.dataset.tokens import template as templates
from studio.dataset.tokens.abilities import Abilities, abilities_of
from studio.dataset.tokens.masks import Marker, Span, names
from studio.dataset.tokens.remarks import NOTHING, Remark
from studio.dataset.tokens.shaping import Shaped, shape, thought_of, with_thought_named, without_thought
from studio.dataset.tokens.template import Tool
from studio.recipe.fields import Data

# Of a conversation that has nothing but roles and text, every template knows all.
_ANY = Abilities(system=True, tools=True, calls="object", beside=True, results=True, thoughts="reasoning_content")


@dataclass(frozen=True, slots=True)
class Rendered:
    """Rendered text of a record.

    trained: character ranges that are trained (None: all). framed: whether the tokenizer adds its special tokens around
    the text, as for plain text; a chat template writes them itself. thoughts: thinking that the template leaves out.
    follows: whether the first range begins where the prompt ends, which need not be so if the template marks it.
    """

    record: Record
    text: str
    trained: list[Span] | None
    framed: bool
    remarks: Remark = NOTHING
    thoughts: str = ""
    follows: bool = True


class ChatRenderer:
    """Render conversations with a chat template.

    eos and bos: the model's end and begin tokens; ends: the special tokens that can end an answer, as text.
    """

    def __init__(self, chat: templates.ChatTemplate, data: Data, eos: str, bos: str, ends: Iterable[str]) -> None:
        self._chat, self._data, self._eos, self._bos = chat, data, eos, bos
        self._marker = Marker(chat, ends)
        self.source = chat.source

    @cached_property
    def abilities(self) -> Abilities:
        """What the template can write in conversations with a list of functions."""
        return abilities_of(self._chat)

    @cached_property
    def _abilities_alone(self) -> Abilities:
        """What the template can write in conversations without a list of functions."""
        return abilities_of(self._chat, offered=False)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[str, bool]:
        """A conversation followed by the opening of the next answer; the tokenizer adds nothing to it."""
        shaped = self._shape(messages, tools)
        return self._chat.render(shaped.messages, add_generation_prompt=True, tools=shaped.tools), False

    def render(self, record: Record) -> Rendered:
        """Render the text of a record and mark the trained parts."""
        if not record.messages:
            return plain_text(record, self._eos, self._bos)
        answers = [message for message in record.messages if message["role"] == "assistant"]
        chosen = answers if self._data.train_on != "completions" and not self._data.per_answer else answers[-1:]
        trains = [any(answer is one for one in chosen) and _trains(answer) for answer in answers]
        shaped = self._shape(record.messages, record.tools)
        messages, remarks = shaped.messages, shaped.remarks
        turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        trained = [turn for turn, wanted in zip(turns, trains, strict=True) if wanted]
        if self._data.train_on == "everything":
            skipped = [turn for turn, answer in zip(turns, answers, strict=True) if not _trains(answer)]
            if not skipped:
                return Rendered(record, self._chat.render(messages, tools=shaped.tools), None, False, remarks)
            marked = self._marker.mark(messages, skipped, shaped.tools)
            spans = _between(marked.spans, len(marked.text))
            return Rendered(record, marked.text, spans, False, remarks, follows=False)
        marked = self._marker.mark(messages, trained, shaped.tools)
        text, spans = marked.text, marked.spans
        thoughts = self._left_out(answers, shaped, text)
        if thoughts and thoughts[-1] and trained and trained[-1] == turns[-1]:
            text, spans = self._with_thought(thoughts[-1], trained, shaped)
            remarks |= Remark.THOUGHT_AS_TEXT
            thoughts[-1] = ""
        elif trained and self._opens_thought and not marked.follows and not thought_of(answers[-1]):
            remarks |= Remark.THOUGHT_OPENED
        if self._data.per_answer:
            thoughts = []  # each is trained with its own answer
        if any(thoughts):
            remarks |= Remark.THOUGHT_LEFT_OUT
        if not trained:
            remarks |= Remark.NEVER_TRAINED
        elif trained[-1] == turns[-1]:
            text, spans, more = self._ended(text, spans)
            remarks = remarks | more if more else remarks  # an operation on flags takes microseconds
        left_out = "\n".join(filter(None, thoughts))
        return Rendered(record, text, spans, False, remarks, left_out, marked.follows)

    @cached_property
    def _opens_thought(self) -> bool:
        """Whether the template begins each answer with <think> when the model is used."""
        prompt = self._chat.render([{"role": "user", "content": "?"}], add_generation_prompt=True)
        return prompt.rstrip().endswith("<think>")

    def _shape(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Shaped:
        system = self._data.system_prompt or self._data.fold_system or system_prompt_of(messages)
        special = tools or system or any(len(item) > 2 or item["role"] == "tool" for item in messages)
        abilities = _ANY if not special else self.abilities if tools else self._abilities_alone
        return shape(messages, tools, abilities, self._data.system_prompt, self._data.fold_system)

    def _left_out(self, answers: Sequence[Message], shaped: Shaped, text: str) -> list[str]:
        """The thinking of each answer that is not in the text; empty for those that are, or have none.

        Each is rendered again as a name: its words alone may stand elsewhere in the text.
        """
        if all(len(answer) == 2 and "<think>" not in answer["content"] for answer in answers):
            return []
        thoughts = [thought_of(answer) for answer in answers]
        if not any(thoughts):
            return []
        marks = iter(names(len(answers), text))
        framed = [
            with_thought_named(item, next(marks)) if item["role"] == "assistant" else item for item in shaped.messages
        ]
        written = self._chat.render(framed, tools=shaped.tools)
        return [
            "" if mark in written else thought
            for thought, mark in zip(thoughts, names(len(answers), text), strict=True)
        ]

    def _with_thought(self, thought: str, trained: list[int], shaped: Shaped) -> tuple[str, list[Span]]:
        """The text with the last answer's thinking, for a template that removes it even there.

        A call is rendered without thinking, which is put before it; any other answer is rendered as a name, and
        replaced by thinking and answer. Where the template opens an answer with <think>, the text goes on from there,
        as the model does when it is used.
        """
        *messages, last = shaped.messages
        bare, name = without_thought(last), ""
        content = bare["content"] or ""
        if "tool_calls" not in bare:
            (name,) = names(1, content)
            bare = {"role": "assistant", "content": name}
        marked = self._marker.mark([*messages, bare], trained, shaped.tools)
        text, (first, end) = marked.text, marked.spans[-1]
        at = text.rindex(name) if name else first
        before, after = text[:at], text[at + len(name) :]
        prompt = self._chat.render(messages, add_generation_prompt=True, tools=shaped.tools)
        opening = prompt[len(before) :] if prompt.startswith(before) else ""
        opened = opening.strip() == "<think>"
        lead = opening if opened else "<think>\n"
        answer = f"{lead}{thought.strip()}\n</think>\n\n{content if name else ''}"
        start = max(first, len(before) + len(opening)) if opened else first
        return before + answer + after, [*marked.spans[:-1], (start, end + len(answer) - len(name))]

    def _ended(self, text: str, spans: list[Span]) -> tuple[str, list[Span], Remark]:
        """A text whose last answer ends with one end token, added where the template writes none."""
        if not spans or not self._eos or self._marker.ends(text, spans[-1][1]):
            return text, spans, NOTHING
        start, end = spans[-1]
        bare = len(text[:end].rstrip())
        if self._marker.ends(text, bare):  # the answer itself ends in it, and white space
            return text, [*spans[:-1], (start, bare)], NOTHING
        mark = text[end:].rstrip()
        if not mark.strip():
            head = text[:end].rstrip()
            return head + self._eos, [*spans[:-1], (start, len(head) + len(self._eos))], Remark.END_ADDED
        # The template's own mark is text for this tokenizer: it is trained with every answer.
        grown = [(first, stop + len(mark) if text.startswith(mark, stop) else stop) for first, stop in spans[:-1]]
        whole = text.rstrip()
        return whole + self._eos, [*grown, (start, len(whole) + len(self._eos))], Remark.END_AS_TEXT


class PlainRenderer:
    """Render single-turn examples as Alpaca's text or with a plain template, and plain text as it is.

    eos and bos: the model's end and begin tokens; each stands once in a text, whether the file has it or not.
    """

    source = ""

    def __init__(self, plain: templates.PlainTemplate | None, data: Data, eos: str, bos: str) -> None:
        self._plain, self._data, self._eos, self._bos = plain, data, eos, bos

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[str, bool]:
        """The last question's prompt, and whether the tokenizer adds its bos token to it."""
        question = next((item["content"] for item in reversed(messages) if item["role"] == "user"), "")
        prompt = self._prompt(question, "", system_prompt_of(messages) or self._data.system_prompt)
        return prompt, self._framed(prompt)

    def render(self, record: Record) -> Rendered:
        """Render the text of a record and mark the trained parts."""
        if not record.messages:
            return plain_text(record, self._eos, self._bos)
        answer = templates.single_turn(record, "the Alpaca text" if self._plain is None else "this template")
        remarks = NOTHING
        if thought := record.messages[-1].get("reasoning_content"):
            answer, remarks = f"<think>\n{thought}\n</think>\n\n{answer}", Remark.THOUGHT_AS_TEXT
        text, span = self._text(record, answer)
        if not _trains(record.messages[-1]):
            return Rendered(record, text, [], self._framed(text), Remark.NEVER_TRAINED)
        whole = self._data.train_on == "everything"
        return Rendered(record, text, None if whole else [span], self._framed(text), remarks)

    def _text(self, record: Record, answer: str) -> tuple[str, Span]:
        """The text of an example, and the range of its answer with one end token."""
        system = system_prompt_of(record.messages) or self._data.system_prompt
        prompt = self._prompt(record.instruction, record.input, system)
        ending = "" if self._plain is None else self._plain.ending
        if self._eos and answer.rstrip().endswith(self._eos):
            answer = answer.rstrip()[: -len(self._eos)]
        if not self._eos or self._eos not in ending:
            ending += self._eos
        # Text after the end marker is not part of the model's answer.
        end = len(prompt) + len(answer) + (ending.index(self._eos) + len(self._eos) if self._eos else len(ending))
        return prompt + answer + ending, (len(prompt), end)

    def _prompt(self, instruction: str, extra: str, system: str) -> str:
        if self._plain is not None:
            return self._plain.prompt(instruction, extra, system)
        return templates.before(system, templates.alpaca_prompt(instruction, extra))

    def _framed(self, text: str) -> bool:
        """Whether the tokenizer adds its bos token to a plain text: not if the text already starts with it."""
        return not (self._bos and text.startswith(self._bos))


def plain_text(record: Record, eos: str, bos: str) -> Rendered:
    """A record of plain text, with one end token; all of it is trained."""
    ending = "" if eos and record.text.rstrip().endswith(eos) else eos
    framed = not (bos and record.text.startswith(bos))
    return Rendered(record, record.text + ending, None, framed, Remark.PLAIN_TEXT)


def _trains(message: Message) -> bool:
    return bool(message.get("train", True))


def _between(spans: Sequence[Span], length: int) -> list[Span]:
    """The ranges of a text of this length outside the spans."""
    edges = [0, *(edge for span in spans for edge in span), length]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
