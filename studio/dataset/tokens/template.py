"""Chat templates, rendered in a sandbox; plain templates with placeholders; the Alpaca text.

The environment is that of transformers (`utils/chat_template_utils.py`: ImmutableSandboxedEnvironment, trim_blocks,
lstrip_blocks, loopcontrols, raise_exception, strftime_now, tojson that keeps non-ASCII), so the text is that of
`apply_chat_template`; a test compares them. A template is data from a model's folder: it has access to the messages and
the special tokens only, and it always terminates (sandbox.py).
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser

from studio.dataset.record import Message, Record
from studio.dataset.tokens.sandbox import LONGEST, BoundedEnvironment, TemplateTooLarge
from studio.errors import BadInput
from studio.recipe.fields import PLACEHOLDER
from studio.rundir import read_json

Tool = dict[str, Any]  # a function that the assistant may call, as a JSON schema

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
    """The original Alpaca text up to and including the response heading."""
    if extra:
        return ALPACA_WITH_INPUT.format(instruction=instruction, input=extra)
    return ALPACA_WITHOUT_INPUT.format(instruction=instruction)


class _Generation(Extension):
    """`{% generation %}` blocks, which mark the assistant's part: they add no text, and their position is recorded."""

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
    """Character ranges of the marked blocks of a rendering, and the number of characters written so far."""

    def __init__(self) -> None:
        self.written = 0
        self.found: list[tuple[int, int]] = []


# Errors that a template's code can raise on messages it was not written for.
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
    """A chat template from a model or a recipe.

    where: the name of its owner, for messages. marks: whether it marks the assistant's part with `{% generation %}`.
    for_tools: the template for conversations with tools, of models that have a second one; else the first is used.
    Raises BadInput when the folder has none, or when the template is broken or refuses the messages.
    """

    def __init__(self, source: str, special: dict[str, str], where: str, for_tools: str | None = None) -> None:
        self.source, self.special, self.where = source, special, where
        self.marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source + (for_tools or "")) is not None
        self._environment = environment()
        try:
            self._template = self._environment.from_string(source)
            self._for_tools = self._template if for_tools is None else self._environment.from_string(for_tools)
        except _REFUSALS as error:
            raise BadInput(f"The chat template of {where} is broken: {error}.") from None

    @classmethod
    def of_model(cls, folder: Path) -> "ChatTemplate":
        source = template_source(folder)
        if source is None:
            raise BadInput(f"{folder.name} has no chat template. Use the Alpaca template, or an instruct model.")
        return cls(source, special_tokens(folder), folder.name, tool_template_source(folder))

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, tools: Sequence[Tool] = ()
    ) -> str:
        """Render the text of a conversation, followed by the opening of an answer if requested.

        tools: the functions that the assistant may call, as JSON schemas.
        """
        self._environment.begin()
        try:
            return self._of(tools).render(self._variables(messages, add_generation_prompt, tools))
        except _REFUSALS as error:
            raise self._refusal(error) from None

    def render_marked(
        self, messages: Sequence[Message], tools: Sequence[Tool] = ()
    ) -> tuple[str, list[tuple[int, int]]]:
        """Render the text of a conversation; also returns the character ranges of its `{% generation %}` blocks."""
        marks = Marks()
        self._environment.marks = marks  # type: ignore[attr-defined]  # see _Generation
        blocks = []
        self._environment.begin()
        try:
            for block in self._of(tools).generate(self._variables(messages, False, tools)):
                blocks.append(block)
                marks.written += len(block)
                if marks.written > LONGEST:
                    raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
        except _REFUSALS as error:
            raise self._refusal(error) from None
        finally:
            self._environment.marks = None  # type: ignore[attr-defined]
        return "".join(blocks), marks.found

    def _of(self, tools: Sequence[Tool]) -> jinja2.Template:
        return self._for_tools if tools else self._template

    def _variables(
        self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[Tool]
    ) -> dict[str, Any]:
        return {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": list(tools) or None,
            "documents": None,
            **self.special,
        }

    def _refusal(self, error: Exception) -> BadInput:
        return BadInput(f"The chat template of {self.where} cannot render this example: {error}.")


class PlainTemplate:
    """Text with placeholders {instruction}, {input}, {system} and one {output}; the text after it ends the answer."""

    def __init__(self, source: str) -> None:
        self._before, placeholder, self.ending = source.partition("{output}")
        if not placeholder:
            raise BadInput("The template has no {output}: add it where the answer goes.")
        self._with_input = "{input}" in self._before
        self._with_system = "{system}" in self._before

    def prompt(self, instruction: str, extra: str = "", system: str = "") -> str:
        """The text before the answer. Nothing is lost without a placeholder: without {input} the input follows the
        instruction, without {system} the system prompt comes first.
        """
        if extra and not self._with_input:
            instruction, extra = f"{instruction}\n\n{extra}", ""
        values = {"instruction": instruction, "input": extra, "system": system}
        # In one pass, so that braces in an example's text are left alone.
        text = PLACEHOLDER.sub(lambda match: values[match[1]], self._before)
        return text if self._with_system else before(system, text)


def before(system: str, text: str) -> str:
    """Prepend a system prompt to a text without a place for one."""
    return f"{system}\n\n{text}" if system else text


def template_source(folder: Path) -> str | None:
    """Source of a model's chat template: chat_template.jinja, else tokenizer_config.json; None without one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BadInput(f"The chat template of {folder.name} is not UTF-8 text.") from None
    value = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(value, list):
        value = _named(value, "default")
    return value if isinstance(value, str) else None


def tool_template_source(folder: Path) -> str | None:
    """Source of the second chat template that some models have for conversations with tools; None without one."""
    path = folder / "additional_chat_templates" / "tool_use.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BadInput(f"The chat template for tools of {folder.name} is not UTF-8 text.") from None
    if (folder / "chat_template.jinja").is_file():
        return None
    value = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    value = _named(value, "tool_use") if isinstance(value, list) else None
    return value if isinstance(value, str) else None


def _named(templates: Sequence[Any], name: str) -> Any:
    return {item.get("name"): item.get("template") for item in templates if isinstance(item, dict)}.get(name)


def special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens of a model folder (bos_token, eos_token and so on), as passed to templates."""
    tokens: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in (read_json(folder / name) or {}).items():
            if not key.endswith("_token"):
                continue
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                tokens[key] = value
    return tokens


def with_system(messages: Sequence[Message], system_prompt: str) -> list[Message]:
    """Prepend a system prompt to the messages, unless they already have one."""
    if not system_prompt or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def single_turn(record: Record, what: str) -> str:
    """The answer of a single-turn example; raises BadInput for longer ones, which `what` does not support."""
    if not record.instruction:
        raise BadInput(f"It is a conversation of several turns, and {what} has room for one. Use the chat template.")
    if record.tools or "tool_calls" in record.messages[-1]:
        raise BadInput(f"It has tools, and {what} has no place for them. Use the chat template.")
    return str(record.messages[-1]["content"])
