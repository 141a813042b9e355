"""Which part of an example is trained: exactly the assistant's tokens and the marker that ends them.

For any chat template, known or not, in two steps. First in characters: an answer begins where the prompt that asks for
it ends, and ends behind the first special token that follows its content. Then in tokens, by the tokenizer's offsets.
Templates that say by `{% generation %}` what is the assistant's are taken at their word, as transformers does.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from tokenizers import Encoding

from studio.dataset.read.formats import Message
from studio.dataset.tokens.template import ChatTemplate
from studio.errors import BadInput

Span = tuple[int, int]  # [start, end)

# Ways to cut a text into answers that are looked at before the best of them is taken.
_WAYS = 256
# Different frames around a last answer that are remembered: with reasoning, without, and some more.
_FRAMES = 8
_TAIL = 16  # characters by which a prompt's end is known again


class Marker:
    """Finds the answers in rendered conversations.

    ends: the special tokens that can end an answer, as text.
    """

    def __init__(self, template: ChatTemplate, ends: Iterable[str]) -> None:
        self._template = template
        # The longest first: one special token may begin as another does.
        choices = "|".join(re.escape(end) for end in sorted(filter(None, set(ends)), key=len, reverse=True))
        self._end = re.compile(rf"\s*(?:{choices or '(?!)'})")
        # What stands around a last answer: between its prompt and it, and behind it.
        self._frames: list[tuple[str, str]] = []

    def mark(self, messages: list[Message], every: bool) -> tuple[str, list[Span]]:
        """The text of a conversation and where its trained answers stand, in characters and in order.

        every: all answers, not the last one alone. Raises BadInput when the template refuses the conversation, or
        changes its answers so that they cannot be told from the rest.
        """
        if self._template.marks:
            text, spans = self._marked(messages, every)
            if spans:
                return text, spans
        else:
            text = self._template.render(messages)
        turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        if not every:
            turns = turns[-1:]
        prompts = {turn: self._template.render(messages[:turn], add_generation_prompt=True) for turn in turns}
        spans = []
        for turn, prompt in prompts.items():
            found = self._plainly(text, prompt, messages[turn]["content"].strip(), turn == turns[-1])
            if found is None:
                return text, self._exactly(messages, text, prompts)
            spans.append(found)
        return text, spans

    def _marked(self, messages: list[Message], every: bool) -> tuple[str, list[Span]]:
        """What `{% generation %}` marks; blocks that touch are one answer."""
        text, found = self._template.render_marked(messages)
        spans: list[Span] = []
        for start, end in found:
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], end)
            elif start < end:
                spans.append((start, end))
        if every or len(spans) < 2:
            return text, spans
        last = max(turn for turn, message in enumerate(messages) if message["role"] == "assistant")
        prompt = self._template.render(messages[:last], add_generation_prompt=True)
        own = [span for span in spans if span[1] > len(prompt)] if text.startswith(prompt) else []
        return text, own or spans[-1:]

    def _plainly(self, text: str, prompt: str, content: str, is_last: bool) -> Span | None:
        """The answer that stands behind the prompt as it was given; None when that is not beyond doubt."""
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
        """Where an answer whose content is text[begin:end] ends: behind its end marker if it has one."""
        ending = self._end.match(text, begin + len(text[begin:end].rstrip()))
        return max(ending.end(), end) if ending else end

    def _exactly(self, messages: list[Message], text: str, prompts: dict[int, str]) -> list[Span]:
        """Rendered once more with names in place of the answers: what stands around the names is the template's."""
        every = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        names = dict(zip(every, _names(len(every), text), strict=True))
        framed = [
            {**message, "content": names[turn]} if turn in names else message for turn, message in enumerate(messages)
        ]
        whole = self._template.render(framed)
        found = self._between_prompts(framed, whole, text, names, prompts)
        if found is None:
            pieces = _split(whole, list(names.values()))
            placed = _place(text, pieces, [messages[turn]["content"].strip() for turn in every]) if pieces else None
            if placed is None:
                raise BadInput(
                    f"The chat template of {self._template.where} changes the answers so that they cannot be told "
                    "from the rest. Set train_on to everything, or use another template."
                )
            found = [placed[every.index(turn)] for turn in prompts]
        return [
            (_start(text, begin, prompt), self._behind(text, begin, end))
            for prompt, (begin, end) in zip(prompts.values(), found, strict=True)
        ]

    def _between_prompts(
        self, framed: list[Message], whole: str, text: str, names: dict[int, str], prompts: dict[int, str]
    ) -> list[Span] | None:
        """Each answer from its prompt's end to where what follows it begins; None when a prompt is no prefix."""
        if not all(text.startswith(prompt) for prompt in prompts.values()):
            return None
        found: list[Span] = []
        turns = list(prompts)
        for turn, following in zip(turns, [*turns[1:], None], strict=True):
            limit = len(text) if following is None else len(prompts[following])
            frame = whole if following is None else self._template.render(framed[:following], True)
            if frame.count(names[turn]) != 1:
                return None
            before, _, after = frame.partition(names[turn])
            start, end = len(prompts[turn]), limit - len(after)
            if end < start or not text.endswith(after, start, limit):
                return None
            found.append((start, end))
            if following is None:
                prompt = self._template.render(framed[:turn], add_generation_prompt=True)
                if before.startswith(prompt):
                    self._remember((before[len(prompt) :], after))
        return found

    def _remember(self, frame: tuple[str, str]) -> None:
        if frame not in self._frames and len(self._frames) < _FRAMES:
            self._frames.append(frame)


def _start(text: str, begin: int, prompt: str) -> int:
    """Where an answer whose content begins at `begin` starts: behind its prompt, though that be no prefix of the text.

    White space that the template writes before the content and not at the prompt's end is the model's to write.
    """
    if text.startswith(prompt):
        return min(len(prompt), begin)
    bare = len(text[:begin].rstrip())
    return bare if bare and prompt.endswith(text[max(0, bare - _TAIL) : bare]) else begin


def _names(count: int, text: str) -> list[str]:
    """Numbers that the text does not hold, one for each answer: digits come through filters such as upper and trim."""
    first = 73_158_209_460_000_000
    while any(str(first + number) in text for number in range(count)):
        first += count
    return [str(first + number) for number in range(count)]


def _split(whole: str, names: list[str]) -> list[str] | None:
    """What stands before, between and behind the names; None unless each stands there once, in order."""
    pieces, rest = [], whole
    for name in names:
        if whole.count(name) != 1:
            return None
        before, found, rest = rest.partition(name)
        if not found:
            return None
        pieces.append(before)
    return [*pieces, rest]


def _place(text: str, pieces: list[str], contents: list[str]) -> list[Span] | None:
    """Where the answers between `pieces` stand in the text; of several ways the one that is closest to `contents`."""

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
        found = [text[begin:end].strip() for begin, end in way]
        same = sum(one == other for one, other in zip(found, contents, strict=True))
        inside = sum(one in other for one, other in zip(found, contents, strict=True))
        return same, inside

    if not text.startswith(pieces[0]):
        return None
    return max(islice(ways(0, len(pieces[0])), _WAYS), key=likeness, default=None)


def token_spans(encoding: Encoding, text: str, spans: Iterable[Span], special: Collection[int]) -> tuple[Span, ...]:
    """Ranges of characters as ranges of tokens: every token that overlaps one belongs to it.

    special: ids of special tokens. Some of them swallow the white space that an answer begins with; they are no part
    of it.
    """
    offsets: list[Span] | None = None
    found: list[Span] = []
    reached = 0
    for start, end in spans:
        if start >= end:
            continue
        first = encoding.char_to_token(start)
        # Past ASCII one character may take several tokens, and the library names the first of them.
        last = encoding.char_to_token(end - 1) if text[end - 1] < "\x80" else None
        if first is None or last is None:
            # White space that the tokenizer trims from its offsets belongs to a token of no width at its end.
            offsets = encoding.offsets if offsets is None else offsets
            first, last = _overlapping(offsets, start, end)
        first = max(first, reached)
        around = encoding.token_to_chars(first) if first <= last else None
        if around is not None and around[0] < start and encoding.ids[first] in special:
            first += 1
        if first <= last:
            found.append((first, last + 1))
            reached = last + 1
    return tuple(found)


def _overlapping(offsets: list[Span], start: int, end: int) -> Span:
    """First and last token that overlaps [start, end); the last before the first when none does."""
    first = next((token for token, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
    last = first - 1
    for token in range(first, len(offsets)):
        begin, stop = offsets[token]
        if stop <= start:  # a token that the tokenizer put behind the text
            continue
        # A token of no width holds the white space before it.
        if begin >= end and not begin == stop == end:
            break
        last = token
    return first, last
