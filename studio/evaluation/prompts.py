"""Prompts with expected answers, and the files that store them.

One prompt per line: {"prompt" or "messages", "reference", "check", "about"}. A check is one of {"exact": text},
{"contains": [texts, any of which is enough]}, {"regex": pattern}, {"json": [keys, exactly these]}, {"tool_call":
[JSON texts of {"name": …, "arguments": {…}}, one per call]}. The pattern is searched anywhere in the answer; `^` and
`$` are the start and end of the answer.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from studio.errors import BadInput
from studio.evaluation import tool_calls
from studio.evaluation.tool_calls import Call

Kind = Literal["exact", "contains", "regex", "json", "tool_call"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Check:
    """A rule for an answer: its kind, and the texts, pattern, keys or calls the answer is compared with."""

    kind: Kind
    wanted: tuple[str, ...]

    @property
    def calls(self) -> list[Call]:
        """The expected calls of a check of tool calls."""
        return [call for text in self.wanted if (call := tool_calls.call_of(text))]

    @property
    def words(self) -> str:
        """Description of the expected answer, for people."""
        if self.kind == "tool_call":
            return f"calls {' and '.join(call.words for call in self.calls)}"
        if self.kind == "json":
            return f"a JSON object with the keys {', '.join(self.wanted)}"
        if self.kind == "regex":
            return f"matches {self.wanted[0]}"
        listed = " or ".join(f"“{text}”" for text in self.wanted)
        return f"exactly {listed}" if self.kind == "exact" else f"contains {listed}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. row: its row number if it is from a dataset's file; about: its category, in a word; tools: the
    functions that the model may call, as JSON schemas."""

    messages: tuple[dict[str, Any], ...]
    reference: str = ""
    check: Check | None = None
    about: str = ""
    row: int = 0
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def question(self) -> str:
        """The last user message."""
        return next((turn["content"] for turn in reversed(self.messages) if turn["role"] == "user"), "")


def of_text(text: str, reference: str = "", check: Check | None = None) -> Prompt:
    """Create a prompt of one message."""
    return Prompt(({"role": "user", "content": text},), reference, check)


def typed(text: str) -> list[Prompt]:
    """Parse prompts typed one per line, each optionally followed by ` => ` and the expected answer.

    Expected answer: a text it contains (or one of several, separated by ` | `), `= text` for exactly this text,
    `/pattern/`, or `json: key, key`. Raises BadInput when there is no prompt.
    """
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        question, _, wanted = line.partition(" => ")
        if question.strip():
            prompts.append(of_text(question.strip(), check=_expected(wanted.strip(), f"Line {number}")))
    if not prompts:
        raise BadInput("Write at least one prompt, one per line.")
    return prompts


def _expected(text: str, where: str) -> Check | None:
    if not text:
        return None
    if len(text) > 2 and text[0] == text[-1] == "/":
        return checked({"regex": text[1:-1]}, where)
    if text.startswith("json:"):
        return checked({"json": [key.strip() for key in text[5:].split(",")]}, where)
    if text.startswith("= "):
        return checked({"exact": text[2:].strip()}, where)
    return checked({"contains": [part.strip() for part in text.split(" | ")]}, where)


def checked(given: Mapping[str, Any], where: str) -> Check:
    """Build a check from its JSON form; raises BadInput that says where it is wrong."""
    kind, value = next(iter(given.items()), ("", None))
    wanted = tuple(value) if isinstance(value, list) else (value,)
    if kind not in KINDS or len(given) != 1 or not wanted or not all(isinstance(text, str) and text for text in wanted):
        raise BadInput(f"{where}: a check is one of {', '.join(KINDS)} with a text or a list of texts, not {given!r}.")
    if kind == "regex":
        try:
            regex.compile(wanted[0])
        except regex.error as error:
            raise BadInput(f"{where}: {wanted[0]!r} is not a regular expression: {error}.") from None
    if kind == "tool_call" and (broken := next((text for text in wanted if not tool_calls.call_of(text)), None)):
        raise BadInput(f'{where}: {broken!r} is not a call: JSON as {{"name": "f", "arguments": {{}}}} is needed.')
    return Check(kind, wanted)


def lines(path: Path) -> list[str]:
    """The lines of a jsonl file. str.splitlines would also split at some characters inside JSON texts."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def load(path: Path) -> list[Prompt]:
    """Read the prompts of a file."""
    prompts = []
    for number, line in enumerate(lines(path), start=1):
        where = f"{path.name}, line {number}"
        try:
            value = json.loads(line)
            turns = value.get("messages") or [{"role": "user", "content": value["prompt"]}]
            messages = tuple(
                {**turn, "role": str(turn["role"]), "content": str(turn.get("content") or "")} for turn in turns
            )
            tools = tuple(value.get("tools") or ())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{where} is not a prompt: an object with prompt or messages is needed.") from None
        check = checked(value["check"], where) if value.get("check") else None
        reference, about = str(value.get("reference", "")), value.get("about", "")
        prompts.append(Prompt(messages, reference, check, about, value.get("row", 0), tools))
    return prompts


def dump(prompts: Iterable[Prompt]) -> str:
    """Text of a file that `load` reads."""
    rows = []
    for prompt in prompts:
        value = asdict(prompt) | {"check": {prompt.check.kind: list(prompt.check.wanted)} if prompt.check else None}
        rows.append(json.dumps({name: item for name, item in value.items() if item}, ensure_ascii=False) + "\n")
    return "".join(rows)
