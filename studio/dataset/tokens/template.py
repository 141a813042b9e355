"""Chat templates, rendered in a sandbox; plain templates with placeholders; the Alpaca text.

The environment is that of transformers (`utils/chat_template_utils.py`: ImmutableSandboxedEnvironment, trim_blocks,
lstrip_blocks, loopcontrols, raise_exception, strftime_now, tojson that keeps non-ASCII), so the text is the one
`apply_chat_template` gives; a test compares them. A template is data from a model's folder: it sees the messages
and the special tokens, nothing else, and it ends (sandbox.py).
"""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser

from studio.dataset.read.formats import Message, Record
from studio.dataset.tokens.sandbox import LONGEST, BoundedEnvironment, TemplateTooLarge
from studio.errors import BadInput
from studio.recipe.fields import PLACEHOLDER
from studio.rundir import read_json

# Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca: the two prompts, verbatim.
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def alpaca_prompt(instruction: str, extra: str = "") -> str:
    """The classic Alpaca text up to and including the response heading."""
    if extra:
        return ALPACA_WITH_INPUT.format(instruction=instruction, input=extra)
    return ALPACA_WITHOUT_INPUT.format(instruction=instruction)


class _Generation(Extension):
    """`{% generation %}` blocks mark the assistant's part: they add no text, and where they stand is noted."""

    tags = {"generation"}  # noqa: RUF012 jinja2 reads a plain set

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        environment.extend(marks=None)

    def parse(self, parser: Parser) -> Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller: Any) -> str:
        text = str(caller())
        marks: Marks | None = self.environment.marks  # type: ignore[attr-defined]  # extend() put it there
        if marks is not None:
            marks.found.append((marks.written, marks.written + len(text)))
        return text


class Marks:
    """Where the marked blocks of a rendering stand, in characters, and how much of it is written so far."""

    def __init__(self) -> None:
        self.written = 0
        self.found: list[tuple[int, int]] = []


# What a template's own code can raise on messages it was not made for.
_REFUSALS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> BoundedEnvironment:
    env = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    env.filters["tojson"] = _tojson
    env.wrap("tojson")
    env.globals["raise_exception"] = _raise
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(str(form)[:100])
    return env


class ChatTemplate:
    """A chat template: a model's own, or one that a recipe brings.

    where: whose it is, for messages. marks: it says by `{% generation %}` which part is the assistant's.
    Raises BadInput when the folder has none, or when the template is broken or refuses the messages.
    """

    def __init__(self, source: str, special: dict[str, str], where: str) -> None:
        self.source, self.special, self.where = source, special, where
        self.marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None
        self._environment = environment()
        try:
            self._template = self._environment.from_string(source)
        except _REFUSALS as error:
            raise BadInput(f"The chat template of {where} is broken: {error}.") from None

    @classmethod
    def of_model(cls, folder: Path) -> "ChatTemplate":
        source = template_source(folder)
        if source is None:
            raise BadInput(
                f"{folder.name} has no chat template. Use the Alpaca template, or a model that was made for chat."
            )
        return cls(source, special_tokens(folder), folder.name)

    def render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation, with the opening of an answer behind it if asked."""
        self._environment.begin()
        try:
            return self._template.render(self._seen(messages, add_generation_prompt))
        except _REFUSALS as error:
            raise self._refusal(error) from None

    def render_marked(self, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation and the ranges of characters that `{% generation %}` blocks mark in it."""
        marks = Marks()
        self._environment.marks = marks  # type: ignore[attr-defined]  # see _Generation
        blocks = []
        self._environment.begin()
        try:
            for block in self._template.generate(self._seen(messages, False)):
                blocks.append(block)
                marks.written += len(block)
                if marks.written > LONGEST:
                    raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
        except _REFUSALS as error:
            raise self._refusal(error) from None
        finally:
            self._environment.marks = None  # type: ignore[attr-defined]
        return "".join(blocks), marks.found

    def _seen(self, messages: list[Message], add_generation_prompt: bool) -> dict[str, Any]:
        return {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **self.special,
        }

    def _refusal(self, error: Exception) -> BadInput:
        return BadInput(f"The chat template of {self.where} cannot render this example: {error}.")


class PlainTemplate:
    """A text with {instruction}, {input} and {system}, once {output}, and what ends the answer behind it."""

    def __init__(self, source: str) -> None:
        self._before, found, self.ending = source.partition("{output}")
        if not found:
            raise BadInput("The template has no {output}: say where the answer stands.")
        self._with_input = "{input}" in self._before
        self._with_system = "{system}" in self._before

    def prompt(self, instruction: str, extra: str = "", system: str = "") -> str:
        """All that stands before the answer. What the template has no place for is not lost: without {input} the
        input follows the instruction, without {system} the system prompt stands first.
        """
        if extra and not self._with_input:
            instruction, extra = f"{instruction}\n\n{extra}", ""
        values = {"instruction": instruction, "input": extra, "system": system}
        # In one pass, so that braces in an example's own text stay what they are.
        text = PLACEHOLDER.sub(lambda found: values[found[1]], self._before)
        return text if self._with_system else before(system, text)


def before(system: str, text: str) -> str:
    """A text that has no place for a system prompt, with the system prompt before it."""
    return f"{system}\n\n{text}" if system else text


def template_source(folder: Path) -> str | None:
    """The text of a model's chat template: chat_template.jinja, else tokenizer_config.json; None without one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BadInput(f"The chat template of {folder.name} is no text in UTF-8.") from None
    value = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def special_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token and the like of a model folder, as templates see them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in (read_json(folder / name) or {}).items():
            if not key.endswith("_token"):
                continue
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                found[key] = value
    return found


def with_system(messages: list[Message], system_prompt: str) -> list[Message]:
    """The messages with a system prompt in front, unless they bring their own."""
    if not system_prompt or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def single_turn(record: Record, what: str) -> str:
    """The answer of an example of one turn; raises BadInput for a longer one, which `what` has no room for."""
    if not record.instruction:
        raise BadInput(f"It is a conversation of several turns, and {what} has room for one. Use the chat template.")
    return record.messages[-1]["content"]
