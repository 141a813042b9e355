"""Loss mask: find the trained part of an example, exactly the assistant's tokens and the marker that ends them.

Works for any chat template, known or not, in two steps. First in characters, here: an answer starts where its prompt
ends, and ends after the first special token that follows its content. Then in tokens (token_spans.py). Templates
that mark the assistant's part with `{% generation %}` are trusted, as in transformers; only what they mark around the
answer (the header that the prompt already has, white space after the end marker) is left out.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

from studio.dataset.record import Message
from studio.dataset.tokens.shaping import thought_of
from studio.dataset.tokens.template import ChatTemplate, Tool
from studio.errors import BadInput

Span = tuple[int, int]  # [start, end)

# Maximum number of ways to split a text into answers that are compared.
_WAYS = 256
# Maximum number of remembered frames around a last answer: with reasoning, without, and some more.
_FRAMES = 8
_TAIL = 16  # characters used to recognise the end of a prompt


@dataclass(frozen=True, slots=True)
class Marked:
    """The text of a conversation and the character ranges of its trained answers.

    follows: whether each range certainly begins where its prompt ends.
    """

    text: str
    spans: list[Span]
    follows: bool


class Marker:
    """Find the answers in rendered conversations.

    ends: the special tokens that can end an answer, as text.
    """

    def __init__(self, template: ChatTemplate, ends: Iterable[str]) -> None:
        self._template = template
        # Longest first: one special token may be a prefix of another.
        self._ends = tuple(sorted(filter(None, set(ends)), key=len, reverse=True))
        choices = "|".join(map(re.escape, self._ends))
        self._end = re.compile(rf"\s*(?:{choices or '(?!)'})")
        # Text around a last answer: between its prompt and it, and after it.
        self._frames: list[tuple[str, str]] = []

    def mark(self, messages: Sequence[Message], turns: Sequence[int], tools: Sequence[Tool] = ()) -> Marked:
        """The text of a conversation and the character ranges of the answers at `turns` (from 0), in order.

        tools: the functions that the assistant may call. Raises BadInput when the template refuses the conversation, or
        changes its answers so that they cannot be located in the text.
        """
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        render = partial(self._template.render, tools=tools)
        if self._template.marks and turns:
            text, spans = self._marked(messages, answers, turns, tools)
            if spans:
                return Marked(text, spans, follows=False)
        else:
            text = render(messages)
        prompts = {turn: render(messages[:turn], add_generation_prompt=True) for turn in turns}
        spans = []
        for turn, prompt in prompts.items():
            is_last = turn == answers[-1]
            span = None
            if "tool_calls" not in messages[turn]:
                span = self._plainly(text, prompt, messages[turn]["content"].strip(), is_last)
            if span is None and len(messages[turn]) > 2:
                span = self._by_prefix(text, prompt, text if is_last else render(messages[: turn + 1]))
            if span is None:
                spans = self._located(messages, text, prompts, render)
                starts = zip(spans, prompts.values(), strict=True)
                follows = all(start == len(prompt) and text.startswith(prompt) for (start, _), prompt in starts)
                return Marked(text, spans, follows)
            spans.append(span)
        return Marked(text, spans, follows=True)

    def ends(self, text: str, end: int) -> bool:
        """Whether text[:end] ends with one of the tokens that can end an answer."""
        return text.endswith(self._ends, 0, end)

    def _marked(
        self, messages: Sequence[Message], answers: Sequence[int], turns: Sequence[int], tools: Sequence[Tool]
    ) -> tuple[str, list[Span]]:
        """The text and the spans marked with `{% generation %}`; adjacent blocks are one answer."""
        text, blocks = self._template.render_marked(messages, tools)
        spans: list[Span] = []
        for start, end in blocks:
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], end)
            elif start < end:
                spans.append((start, end))
        spans = [self._trimmed(text, start, end) for start, end in spans]
        if list(turns) == list(answers) or len(spans) < 2:
            return text, spans
        if len(spans) == len(answers):
            return text, [spans[answers.index(turn)] for turn in turns]
        if list(turns) != answers[-1:]:
            return text, []
        prompt = self._template.render(messages[: answers[-1]], add_generation_prompt=True, tools=tools)
        own = [span for span in spans if span[1] > len(prompt)] if text.startswith(prompt) else []
        return text, own or spans[-1:]

    def _trimmed(self, text: str, start: int, end: int) -> Span:
        """A marked block without the header of the answer, and without white space after its end marker."""
        if self._opening and text.startswith(self._opening, start, end):
            start += len(self._opening)
        bare = start + len(text[start:end].rstrip())
        return (start, bare) if self.ends(text, bare) else (start, end)

    @cached_property
    def _opening(self) -> str:
        """What the template writes at the end of a prompt to open an answer."""
        question: list[Message] = [{"role": "user", "content": "?"}]
        try:
            plain, prompt = self._template.render(question), self._template.render(question, True)
        except BadInput:
            return ""
        return prompt[len(plain) :] if prompt.startswith(plain) else ""

    def _by_prefix(self, text: str, prompt: str, whole: str) -> Span | None:
        """Span of an answer of any form, between its prompt and the end of the conversation up to it, `whole`.

        None when either is no prefix of the text, as in templates that write an earlier answer otherwise than the last.
        """
        if not text.startswith(whole):
            whole = whole.rstrip()
        start = len(prompt)
        if not text.startswith(prompt) or not text.startswith(whole) or len(whole) <= start:
            return None
        tail, marker = self._tail
        if tail and whole.endswith(tail) and len(whole) - len(tail) > start:
            return start, len(whole) - len(tail) + marker
        ends = [match.end() for match in self._end.finditer(whole, start)]
        return start, ends[-1] if ends else len(whole.rstrip())

    @cached_property
    def _tail(self) -> tuple[str, int]:
        """What the template writes after a plain last answer, and the length of that up to its end marker."""
        (name,) = names(1, self._template.source)
        try:
            text = self._template.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": name}])
        except BadInput:
            return "", 0
        tail = text.rpartition(name)[2]
        ending = self._end.match(tail)
        return (tail, ending.end()) if ending else ("", 0)

    def _plainly(self, text: str, prompt: str, content: str, is_last: bool) -> Span | None:
        """Span of an answer that follows its prompt unchanged; None when that is not certain."""
        start = len(prompt)
        if not content or not text.startswith(prompt):
            return None
        if is_last:
            for opening, tail in self._frames:
                begin, end = start + len(opening), len(text) - len(tail)
                if text.endswith(tail) and text.startswith(opening, start) and text[begin:end].strip() == content:
                    return start, self._behind(text, begin, end)
            return None
        begin = start
        while begin < len(text) and text[begin].isspace():
            begin += 1
        if not text.startswith(content, begin):
            return None
        ending = self._end.match(text, begin + len(content))
        return (start, ending.end()) if ending else None

    def _behind(self, text: str, begin: int, end: int) -> int:
        """End of an answer with content text[begin:end]: after its end marker if it has one."""
        ending = self._end.match(text, begin + len(text[begin:end].rstrip()))
        return max(ending.end(), end) if ending else end

    def _located(
        self, messages: Sequence[Message], text: str, prompts: dict[int, str], render: Callable[..., str]
    ) -> list[Span]:
        """Locate the answers by names in place of all of them; where the template refuses that, because an answer is
        not a call to it, by names for the plain answers and by their own text for calls.
        """
        every = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        plain = [turn for turn in every if "tool_calls" not in messages[turn]]
        try:
            spans = self._exactly(messages, text, prompts, render, every)
            if self._are_calls(messages, text, dict(zip(prompts, spans, strict=True)), render):
                return spans
        except BadInput:
            if plain == every:
                raise
        wanted = {turn: prompt for turn, prompt in prompts.items() if turn in plain}
        found = dict(zip(wanted, self._exactly(messages, text, wanted, render, plain), strict=True)) if wanted else {}
        end = 0
        for turn, prompt in prompts.items():
            if turn not in found:
                found[turn] = self._by_own_text(text[end:], prompt, render(messages[: turn + 1]), end)
            end = found[turn][1]
        return [found[turn] for turn in prompts]

    @staticmethod
    def _are_calls(messages: Sequence[Message], text: str, spans: dict[int, Span], render: Callable[..., str]) -> bool:
        """Whether the spans of calls have nothing but the calls: some templates go on with results in the same turn."""
        calls = ((turn, span) for turn, span in spans.items() if "tool_calls" in messages[turn])
        return all(text[start:end].strip() in render(messages[: turn + 1]) for turn, (start, end) in calls)

    def _by_own_text(self, text: str, prompt: str, whole: str, offset: int) -> Span:
        """Span of a call in the text that begins at `offset`, by the call's text as a last answer.

        Of several places, the one whose text before it is most like the prompt's end.
        """
        span = self._by_prefix(whole, _shared(prompt, whole), whole)
        if span is None:
            raise self._hidden()
        own = whole[span[0] : span[1]]
        places = [match.start() for match in re.finditer(re.escape(own), text)]
        if not places:
            raise self._hidden()
        start = max(places, key=lambda at: _common_end(text[:at], prompt))
        return offset + start, offset + start + len(own)

    def _hidden(self) -> BadInput:
        return BadInput(
            f"The chat template of {self._template.where} changes the answers so that they cannot be located in the "
            "text. Train one example per answer, set train_on to everything, or use another template."
        )

    def _exactly(
        self,
        messages: Sequence[Message],
        text: str,
        prompts: dict[int, str],
        render: Callable[..., str],
        every: Sequence[int],
    ) -> list[Span]:
        """Locate answers by rendering again with names in place of `every` one: all other text is the template's."""
        placeholders = dict(zip(every, names(len(every), text), strict=True))
        framed = [
            _named(message, placeholders[turn]) if turn in placeholders else message
            for turn, message in enumerate(messages)
        ]
        whole = render(framed)
        answers = self._between_prompts(framed, whole, text, placeholders, prompts, render)
        if answers is None:
            pieces = _split(whole, list(placeholders.values()))
            contents = [(messages[turn]["content"] or "").strip() for turn in every]
            placed = _place(text, pieces, contents) if pieces else None
            if placed is None:
                raise self._hidden()
            answers = [placed[every.index(turn)] for turn in prompts]
        return [
            (_start(text, begin, prompt, thought_of(messages[turn])), self._behind(text, begin, end))
            for (turn, prompt), (begin, end) in zip(prompts.items(), answers, strict=True)
        ]

    def _between_prompts(
        self,
        framed: list[Message],
        whole: str,
        text: str,
        placeholders: dict[int, str],
        prompts: dict[int, str],
        render: Callable[..., str],
    ) -> list[Span] | None:
        """Span of each answer, from its prompt's end to the start of what follows; None if a prompt is not a prefix."""
        if not all(text.startswith(prompt) for prompt in prompts.values()):
            return None
        spans: list[Span] = []
        turns = list(prompts)
        for turn, following in zip(turns, [*turns[1:], None], strict=True):
            limit = len(text) if following is None else len(prompts[following])
            frame = whole if following is None else render(framed[:following], True)
            if frame.count(placeholders[turn]) != 1:
                return None
            before, _, after = frame.partition(placeholders[turn])
            start, end = len(prompts[turn]), limit - len(after)
            if end < start or not text.endswith(after, start, limit):
                return None
            spans.append((start, end))
            if following is None:
                prompt = render(framed[:turn], add_generation_prompt=True)
                if before.startswith(prompt):
                    self._remember((before[len(prompt) :], after))
        return spans

    def _remember(self, frame: tuple[str, str]) -> None:
        if frame not in self._frames and len(self._frames) < _FRAMES:
            self._frames.append(frame)


def _shared(prompt: str, whole: str) -> str:
    """The prompt as far as the whole text has it: up to a mark or white space, not within the next word."""
    if whole.startswith(prompt):
        return prompt
    length = min(len(prompt), len(whole))
    differs = next((at for at in range(length) if prompt[at] != whole[at]), length)
    common = prompt[:differs]
    return common[: max(common.rfind(mark) for mark in (">", "]", " ", "\n")) + 1]


def _common_end(first: str, second: str) -> int:
    """Number of equal characters at the end of two texts."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _named(message: Message, name: str) -> Message:
    """An answer with a name in place of its content and its tool calls."""
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": name}


def _start(text: str, begin: int, prompt: str, thought: str) -> int:
    """Start of an answer whose content begins at `begin`: after its prompt, even if that is not a prefix of the text.

    White space that the template writes before the content but not at the end of the prompt belongs to the answer, and
    so does thinking that it writes where the prompt has closed it already.
    """
    if text.startswith(prompt):
        return min(len(prompt), begin)
    shared = len(_shared(prompt, text[:begin]))
    if thought.strip() and thought.strip() in text[shared:begin]:
        return shared
    bare = len(text[:begin].rstrip())
    return bare if bare and prompt.endswith(text[max(0, bare - _TAIL) : bare]) else begin


def names(count: int, text: str) -> list[str]:
    """Numbers that do not occur in the text, one per answer: digits survive filters such as upper and trim."""
    first = 73_158_209_460_000_000
    while any(str(first + number) in text for number in range(count)):
        first += count
    return [str(first + number) for number in range(count)]


def _split(whole: str, placeholders: list[str]) -> list[str] | None:
    """The text before, between and after the names; None unless each occurs once, in order."""
    pieces, rest = [], whole
    for name in placeholders:
        if whole.count(name) != 1:
            return None
        before, match, rest = rest.partition(name)
        if not match:
            return None
        pieces.append(before)
    return [*pieces, rest]


def _place(text: str, pieces: list[str], contents: list[str]) -> list[Span] | None:
    """Spans of the answers between `pieces` in the text; of several ways, the one closest to `contents`."""

    def ways(answer: int, begin: int) -> Iterator[list[Span]]:
        piece = pieces[answer + 1]
        if answer == len(contents) - 1:
            end = len(text) - len(piece)
            if end >= begin and text.endswith(piece):
                yield [(begin, end)]
            return
        end = text.find(piece, begin) if piece else -1
        while end >= 0:
            for rest in ways(answer + 1, end + len(piece)):
                yield [(begin, end), *rest]
            end = text.find(piece, end + 1)

    def likeness(way: list[Span]) -> tuple[int, int]:
        answers = [text[begin:end].strip() for begin, end in way]
        same = sum(answer == content for answer, content in zip(answers, contents, strict=True))
        inside = sum(answer in content for answer, content in zip(answers, contents, strict=True))
        return same, inside

    if not text.startswith(pieces[0]):
        return None
    return max(islice(ways(0, len(pieces[0])), _WAYS), key=likeness, default=None)
