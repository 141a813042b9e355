"""Prompts with what is expected of the answer, and the files they are kept in.

One prompt a line: {"prompt" or "messages", "reference", "check", "about"}. A check is one of {"exact": text},
{"contains": [texts, any of which will do]}, {"regex": pattern}, {"json": [keys, exactly these]}. The pattern is
searched anywhere in the answer, `^` and `$` being the answer's ends.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from studio.errors import BadInput

Kind = Literal["exact", "contains", "regex", "json"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Check:
    """What a machine can tell of an answer: of which kind, and the texts, pattern or keys it is held against."""

    kind: Kind
    wanted: tuple[str, ...]

    @property
    def words(self) -> str:
        """What is expected, for people."""
        if self.kind == "json":
            return f"a JSON object with the keys {', '.join(self.wanted)}"
        if self.kind == "regex":
            return f"matches {self.wanted[0]}"
        listed = " or ".join(f"“{one}”" for one in self.wanted)
        return f"exactly {listed}" if self.kind == "exact" else f"contains {listed}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question. row: its number in the dataset's file, where it comes from one; about: its kind, in a word."""

    messages: tuple[dict[str, str], ...]
    reference: str = ""
    check: Check | None = None
    about: str = ""
    row: int = 0

    @property
    def question(self) -> str:
        """The last thing the user says."""
        return next((turn["content"] for turn in reversed(self.messages) if turn["role"] == "user"), "")


def of_text(text: str, reference: str = "", check: Check | None = None) -> Prompt:
    """A prompt of one message."""
    return Prompt(({"role": "user", "content": text},), reference, check)


def typed(text: str) -> list[Prompt]:
    """Prompts typed one a line, behind ` => ` what is expected of the answer: a text it contains (or one of several,
    ` | ` between them), `= text` for exactly this text, `/pattern/`, or `json: key, key`. Raises BadInput for none."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        question, _, wanted = line.partition(" => ")
        if question.strip():
            found.append(of_text(question.strip(), check=_expected(wanted.strip(), f"Line {number}")))
    if not found:
        raise BadInput("Write at least one prompt, one a line.")
    return found


def _expected(text: str, where: str) -> Check | None:
    if not text:
        return None
    if len(text) > 2 and text[0] == text[-1] == "/":
        return checked({"regex": text[1:-1]}, where)
    if text.startswith("json:"):
        return checked({"json": [key.strip() for key in text[5:].split(",")]}, where)
    if text.startswith("= "):
        return checked({"exact": text[2:].strip()}, where)
    return checked({"contains": [one.strip() for one in text.split(" | ")]}, where)


def checked(given: Mapping[str, Any], where: str) -> Check:
    """The check that a file tells of; raises BadInput that says where it is wrong."""
    kind, value = next(iter(given.items()), ("", None))
    wanted = tuple(value) if isinstance(value, list) else (value,)
    if kind not in KINDS or len(given) != 1 or not wanted or not all(isinstance(one, str) and one for one in wanted):
        raise BadInput(f"{where}: a check is one of {', '.join(KINDS)} with a text or a list of texts, not {given!r}.")
    if kind == "regex":
        try:
            regex.compile(wanted[0])
        except regex.error as error:
            raise BadInput(f"{where}: {wanted[0]!r} is no regular expression: {error}.") from None
    return Check(kind, wanted)


def lines(path: Path) -> list[str]:
    """The lines of a jsonl file; some characters inside JSON texts would end a line for str.splitlines."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def load(path: Path) -> list[Prompt]:
    """The prompts of a file."""
    found = []
    for number, line in enumerate(lines(path), start=1):
        where = f"{path.name}, line {number}"
        try:
            value = json.loads(line)
            turns = value.get("messages") or [{"role": "user", "content": value["prompt"]}]
            messages = tuple({"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{where} is no prompt: an object with prompt or messages is needed.") from None
        check = checked(value["check"], where) if value.get("check") else None
        found.append(
            Prompt(messages, str(value.get("reference", "")), check, value.get("about", ""), value.get("row", 0))
        )
    return found


def dump(prompts: Iterable[Prompt]) -> str:
    """The text of a file that `load` reads."""
    made = []
    for prompt in prompts:
        value = asdict(prompt) | {"check": {prompt.check.kind: list(prompt.check.wanted)} if prompt.check else None}
        made.append(json.dumps({name: told for name, told in value.items() if told}, ensure_ascii=False) + "\n")
    return "".join(made)
