"""Dataset formats: convert each row of a file to a `Record`.

Formats: alpaca (instruction, input, output, also system and history), prompt/completion, messages, sharegpt, text,
and `mapped`: any columns, with a mapping from the studio's fields to the file's columns (columns.py). Conversations may
have tools, tool calls, reasoning and weights (messages.py). Preference data is read as two further formats, which are
never chosen without the person: preference (a better and a worse answer) and kto (answers labelled good or bad).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from studio.dataset.columns import Source, optional, required, source_of
from studio.dataset.read import messages as talks
from studio.dataset.read.accounting import Account, is_empty
from studio.dataset.read.messages import MessageReader
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.strict import clip, listed
from studio.dataset.read.values import ValueFault, as_text
from studio.dataset.record import Message, Record
from studio.errors import BadInput

Format = Literal["alpaca", "prompt/completion", "messages", "sharegpt", "text", "preference", "kto", "mapped"]
FORMATS: tuple[Format, ...] = get_args(Format)

# Fields of a mapping. `output` is the answer the model learns.
FIELDS = ("instruction", "input", "output", "system", "history", "text", "messages", "tools")
_ALPACA = {name: name for name in ("instruction", "input", "output", "history")}
_PAIR = {"instruction": "prompt", "output": "completion"}
# Columns with conversations, tools and system prompts, in the order in which they are preferred.
TALKS = ("messages", "conversations", "conversation")
TOOLS = ("tools", "functions")
SYSTEMS = ("system", "system_prompt")
LABELS = ("label", "kto_tag")
_PICTURES = ("image", "images", "video", "videos", "audio", "audios")
_USES = {
    "instruction": "question", "input": "question", "output": "answer", "system": "system prompt",
    "history": "earlier turns", "text": "text", "messages": "messages", "tools": "tools",
}  # fmt: skip
_NEEDS = {
    "alpaca": "the columns instruction and output",
    "prompt/completion": "the columns prompt and completion",
    "messages": "a column messages with a list of {role, content}",
    "sharegpt": "a column conversations with a list of {from, value}",
    "text": "a column text",
    "preference": "the columns chosen and rejected",
    "kto": "a column label with true or false",
    "mapped": "a mapping from fields to columns",
}


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """What the person decided about a file. ignore: columns and message keys to leave out. merge, drop: how to mend
    conversations whose turns are out of order (messages.py).
    """

    ignore: tuple[str, ...] = ()
    merge: bool = False
    drop: bool = False


class Layout:
    """Converter from the rows of one file to records. Raises BadInput when columns the format needs are missing.

    columns and keys: the accounts of what became of the file's columns and of its messages' keys. media: columns that
    the file itself says have pictures or sound.
    """

    def __init__(
        self,
        form: Format,
        mapping: Mapping[str, str],
        columns: Sequence[str],
        options: LayoutOptions = LayoutOptions(),
        media: Collection[str] = (),
    ) -> None:
        self.format = form
        self.columns, self.keys = Account(options.ignore), Account(options.ignore)
        self._reader = MessageReader(self.keys, options.merge, options.drop)
        names = [name for name in columns if name not in options.ignore]
        self._talks: tuple[str, ...] = ()
        self._others: list[dict[str, Source]] = []  # layouts of rows whose own columns are empty
        if form == "mapped":
            _check_mapping(mapping, columns)
            self._sources = _sources(mapping, columns)
        else:
            self._sources = self._of_format(form, names, columns)
        self._uses = {id(sources): _uses(sources) for sources in (self._sources, *self._others)}
        taken = {name for source in self._every_source() for name in source.columns} | set(self._talks)
        self._pictures = [name for name in names if (name.lower() in _PICTURES or name in media) and name not in taken]

    def _of_format(self, form: Format, names: Sequence[str], columns: Sequence[str]) -> dict[str, Source]:
        every: dict[str, dict[str, str]] = {"alpaca": _ALPACA, "prompt/completion": _PAIR, "text": {"text": "text"}}
        shared = {"system": SYSTEMS, "tools": TOOLS}
        extra = {key: name for key, choices in shared.items() if (name := first_of(choices, names))}
        there = {
            known: {field: name for field, name in wanted.items() if name in names} | (extra if known != "text" else {})
            for known, wanted in every.items()
            if set(_must(wanted)) <= set(names)
        }
        if form in every:
            if form not in there:
                raise _lacks(form, columns)
            self._others = [_sources(there[known], columns) for known in there if known not in (form, "text")]
            return _sources(there[form], columns)
        self._talks = tuple(name for name in TALKS if name in names)
        if form in ("messages", "sharegpt"):
            if not self._talks:
                raise _lacks(form, columns)
            self._others = [_sources(wanted, columns) for wanted in there.values()]
            return _sources(extra, columns)
        wanted = {name: name for name in ("input", "history") if name in names} | extra
        if question := first_of(("instruction", "question", "prompt"), names):
            wanted["instruction"] = question
        if form == "preference":
            wanted |= {"chosen": "chosen", "rejected": "rejected"}
        else:
            wanted["label"] = first_of(LABELS, names) or "label"
            if answer := first_of(("completion", "output"), names):
                wanted["output"] = answer
        if not {wanted[name] for name in ("chosen", "rejected", "label") if name in wanted} <= set(names):
            raise _lacks(form, columns)
        return _sources(wanted, columns)

    def _every_source(self) -> Iterable[Source]:
        for sources in (self._sources, *self._others):
            yield from sources.values()

    def record(self, row: Row) -> Record | Finding:
        """Convert one row to a Record, or to the Finding that says why it cannot be one."""
        names = [name for name, value in row.values.items() if not is_empty(value)]
        try:
            record, uses = self._record(row)
        except ValueFault as fault:
            self.columns.add(names, {}, refused=True)
            return Finding(row.number, fault.kind, fault.field, fault.reason, fault.fix, raw=as_json(row.values))
        self.columns.add(names, uses)
        return record

    def _record(self, row: Row) -> tuple[Record, dict[str, str]]:
        """The record of a row, and where its columns went."""
        values = row.values
        for name in self._pictures:
            if not is_empty(values.get(name)):
                fix = f"leave the row out, or ignore {name} to train on the text alone"
                raise talks.pictures(name, "the row", name, fix)
        if self.format in ("preference", "kto"):
            return self._preference(row)
        talk = next((name for name in self._talks if not is_empty(values.get(name))), "")
        if talk:
            uses = self._uses[id(self._sources)] | {talk: "messages"}
            return self._conversation(row, values[talk], talk, self._sources), uses
        sources = self._sources
        if self._others and not self._has(sources, values):
            sources = next((other for other in self._others if self._has(other, values)), sources)
        if self._talks and sources is self._sources:
            talks.as_items(values.get(self._talks[0]), self._talks[0])  # raises: it is missing or empty
        return self._of_sources(row, sources), self._uses[id(sources)]

    @staticmethod
    def _has(sources: Mapping[str, Source], values: Mapping[str, Any]) -> bool:
        """Whether a row has the values that these sources need."""
        must = [sources[name] for name in ("instruction", "output", "text") if name in sources]
        return bool(must) and not any(is_empty(source.find(values)) for source in must)

    def unused(self, row: Row) -> Finding | None:
        """Finding for list items in a kept row that the mapping does not read, or None."""
        for source in self._sources.values():
            message = source.unread(row.values)
            if message:
                fix = "split such rows into several, or map another item"
                return Finding(row.number, "unused", source.name, message, fix)
        return None

    def mended(self, row: Row) -> Finding | None:
        """Finding for a kept row whose conversation was mended as the person asked, or None."""
        if not self._reader.changes:
            return None
        reason = "; ".join(self._reader.changes)
        self._reader.changes = []
        return Finding(row.number, "mended", "", reason, "nothing to do: you chose it")

    def _of_sources(self, row: Row, sources: Mapping[str, Source]) -> Record:
        values = row.values
        if "text" in sources:
            return Record(row.number, [], text=required(sources["text"], values))
        if "messages" in sources:
            source = sources["messages"]
            return self._conversation(row, source.find(values), source.name, sources)
        question = sources["instruction"].find(values)
        if isinstance(question, list) and talks.looks_like_messages(question):
            answer = _answers(sources["output"].find(values))
            return self._conversation(row, [*question, *answer], sources["output"].name, sources)
        return self._turns(row, sources)

    def _conversation(self, row: Row, value: Any, column: str, sources: Mapping[str, Source]) -> Record:
        messages = self._reader.read(value, column, optional(sources.get("system"), row.values))
        turns = [message for message in messages if message["role"] != "system"]
        single = len(turns) == 2 and isinstance(turns[0]["content"], str)
        return Record(
            row.number,
            messages,
            instruction=turns[0]["content"] if single else "",
            tools=_tools(sources.get("tools"), row.values),
        )

    def _turns(self, row: Row, sources: Mapping[str, Source]) -> Record:
        values = row.values
        instruction = required(sources["instruction"], values)
        output = required(sources["output"], values)
        extra = optional(sources.get("input"), values)
        earlier = _history(sources.get("history"), values)
        question = f"{instruction}\n\n{extra}" if extra else instruction
        messages = [*earlier, {"role": "user", "content": question}, {"role": "assistant", "content": output}]
        messages = talks.with_system(messages, optional(sources.get("system"), values), "messages")
        tools = _tools(sources.get("tools"), values)
        if earlier:
            return Record(row.number, messages, tools=tools)
        return Record(row.number, messages, instruction=instruction, input=extra, tools=tools)

    def _preference(self, row: Row) -> tuple[Record, dict[str, str]]:
        """A row of preference data: its better answer as the example, the worse one kept beside it."""
        values, sources = row.values, self._sources
        talk = next((name for name in self._talks if not is_empty(values.get(name))), "")
        uses = _uses(sources) | ({talk: "messages"} if talk else {})
        if self.format == "kto":
            label = as_label(sources["label"].find(values))
            if label is None:
                raise ValueFault(
                    "wrong_type", sources["label"].name, "is neither true nor false", "write true or false"
                )
            uses[sources["label"].name] = "whether the answer is good"
            if talk:
                record = self._conversation(row, values[talk], talk, sources)
            elif {"instruction", "output"} <= set(sources):
                record = self._of_sources(row, sources)
            else:
                raise ValueFault("missing", "completion", "the field is missing", "add an answer to the row")
            if not label:
                *before, answer = record.messages
                return replace(record, messages=before, rejected=[answer]), uses
            return record, uses
        chosen, rejected = sources["chosen"], sources["rejected"]
        uses |= {chosen.name: "better answer", rejected.name: "worse answer"}
        before = self._prompt(values, talk)
        good, bad = _answers(chosen.find(values)), _answers(rejected.find(values))
        if not good or not bad:
            name = chosen.name if not good else rejected.name
            raise ValueFault("missing", name, "the field is missing or null", f"add {name} to the row")
        record = self._conversation(row, [*before, *good], chosen.name, sources)
        worse = self._reader.turns(bad, rejected.name)
        if not before:  # both sides are whole conversations
            better = [message for message in record.messages if message["role"] != "system"]
            worse = [message for message in worse if message["role"] != "system"]
            worse = worse[_shared(better, worse) :]
        if not worse or worse == record.messages[-len(worse) :]:
            raise ValueFault("wrong_type", rejected.name, "is the same as the better answer", "remove the row")
        return replace(record, rejected=worse), uses

    def _prompt(self, values: Mapping[str, Any], talk: str) -> list[Any]:
        """The messages before the two answers; empty where both sides are whole conversations."""
        if talk:
            return talks.as_items(values[talk], talk)
        source = self._sources.get("instruction")
        question = source.find(values) if source else None
        if source is None or is_empty(question):
            return []
        if isinstance(question, list) and talks.looks_like_messages(question):
            return question
        extra = optional(self._sources.get("input"), values)
        text = required(source, values)
        whole = talks.Written(role="user", content=f"{text}\n\n{extra}" if extra else text)
        sides = [self._sources[name].find(values) for name in ("chosen", "rejected")]
        if all(isinstance(side, list) and len(side) > 1 for side in sides):
            return []  # each side repeats the prompt
        return [*map(talks.Written, _history(self._sources.get("history"), values)), whole]


def _shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """Number of equal messages at the start of two conversations."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def _answers(value: Any) -> list[Any]:
    """An answer as messages: a list of them, one, or a text."""
    if isinstance(value, list):
        return value
    if is_empty(value):
        return []
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        return [value]
    return [talks.Written(role="assistant", content=value if isinstance(value, str) else as_text(value, ""))]


def as_label(value: Any) -> bool | None:
    """Whether a label says good or bad; None for any other value."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return value if isinstance(value, bool) else None


def first_of(choices: Iterable[str], names: Sequence[str]) -> str:
    """The first of the choices that is a column, or an empty text."""
    return next((name for name in choices if name in names), "")


def _sources(wanted: Mapping[str, str], columns: Sequence[str]) -> dict[str, Source]:
    return {name: source_of(name, expression, columns) for name, expression in wanted.items()}


def _must(wanted: Mapping[str, str]) -> list[str]:
    return [wanted[name] for name in ("instruction", "output", "text") if name in wanted]


def _uses(sources: Mapping[str, Source]) -> dict[str, str]:
    """Where the columns of these sources go."""
    return {name: _USES.get(field, field) for field, source in sources.items() for name in source.columns}


def _tools(source: Source | None, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    value = source.find(values) if source else None
    return [] if source is None or is_empty(value) else talks.read_tools(value, source.name)


def as_json(values: Any) -> str:
    """A row as JSON, as far as JSON can represent it, clipped like other raw text."""
    return clip(json.dumps(values, ensure_ascii=False, default=str))


def _lacks(form: Format, columns: Iterable[str]) -> BadInput:
    return BadInput(f"The format {form} needs {_NEEDS[form]}. The file has: {listed(columns)}.")


def _check_mapping(mapping: Mapping[str, str], columns: Sequence[str]) -> None:
    """Raise BadInput when a mapping names an unknown field, a missing column or no output."""
    for name in mapping:
        if name not in FIELDS:
            raise BadInput(f"{name!r} is not a field of an example. Map one of: {', '.join(FIELDS)}.")
    whole = next((name for name in ("text", "messages") if name in mapping), "")
    if whole:
        allowed = (whole,) if whole == "text" else (whole, "tools", "system")
        if others := [name for name in mapping if name not in allowed]:
            raise BadInput(f"{whole} is the whole example: map {whole} alone, or {', '.join(others)} without it.")
    elif not {"instruction", "output"} <= set(mapping):
        missing = "output" if "instruction" in mapping else "instruction"
        raise BadInput(f"The mapping has no {missing}. Map it to one of: {listed(columns)}.")


def _history(source: Source | None, values: Mapping[str, Any]) -> list[Message]:
    """Convert Alpaca's history, a list of [question, answer] pairs, to messages."""
    value = source.find(values) if source else None
    if value is None or value == "" or value == []:
        return []
    field = source.name if source else ""
    if isinstance(value, str):
        value = talks.from_json(value, field)
    messages: list[Message] = []
    for position, pair in enumerate(value if isinstance(value, list) else [None], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueFault(
                "wrong_type", field, f"item {position} is not a pair", "write it as [[question, answer], …]"
            )
        for role, content in zip(("user", "assistant"), pair, strict=True):
            text = as_text(content, field)
            if not text.strip():
                raise ValueFault(
                    "empty", field, f"item {position} has an empty {role} turn", "write it or remove the pair"
                )
            messages.append({"role": role, "content": text})
    return messages
