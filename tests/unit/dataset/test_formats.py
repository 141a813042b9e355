"""Formats: what the columns mean, and one record of each row."""

from typing import Any

import pytest

from studio.dataset import columns
from studio.dataset.read.detection import detect
from studio.dataset.read.formats import Layout
from studio.dataset.read.rows import Finding, Row
from studio.dataset.record import Record
from studio.errors import BadInput

NESTED = {
    "name": "t",
    "instruction": "Add",
    "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": ""}],
}


def read(row: dict[str, Any], form: str, mapping: dict[str, str] | None = None, number: int = 1) -> Record | Finding:
    return Layout(form, mapping or {}, list(row)).record(Row(number, row))  # type: ignore[arg-type]


def talk(*contents: str, roles: tuple[str, str] = ("user", "assistant")) -> list[dict[str, str]]:
    return [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt/completion"),
        ({"messages": talk("a", "b")}, "messages"),
        ({"messages": '[{"role": "user", "content": "a"}]'}, "messages"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "sharegpt"),
        ({"text": "once upon a time"}, "text"),
        ({"messages": "a text", "text": "once"}, "text"),
        ({"question": "a", "answer": "b"}, None),
        (NESTED, None),
    ],
)
def test_a_format_is_found_with_its_reason(row: dict[str, object], form: str | None) -> None:
    found = detect(row.keys(), [row])
    assert found.format == form
    assert found.why


def test_one_odd_first_row_does_not_hide_the_format() -> None:
    assert detect(["messages"], [{"messages": None}, {"messages": talk("a", "b")}]).format == "messages"


def test_all_formats_make_the_same_conversation() -> None:
    rows: dict[str, dict[str, Any]] = {
        "alpaca": {"instruction": "Add", "input": "1 and 2", "output": "3"},
        "prompt/completion": {"prompt": "Add\n\n1 and 2", "completion": "3"},
        "messages": {"messages": talk("Add\n\n1 and 2", "3")},
        "sharegpt": {"conversations": [{"from": "human", "value": "Add\n\n1 and 2"}, {"from": "gpt", "value": "3"}]},
    }
    for form, row in rows.items():
        record = read(row, form)
        assert isinstance(record, Record) and record.messages == talk("Add\n\n1 and 2", "3"), form
    asked = talk("Add\n\n1 and 2")
    record = read({"prompt": asked, "completion": talk("", "3")[1:]}, "prompt/completion")
    assert isinstance(record, Record) and record.messages == talk("Add\n\n1 and 2", "3")
    record = read({"messages": '[{"from": "human", "value": "Add"}, {"from": "gpt", "value": "3"}]'}, "messages")
    assert isinstance(record, Record) and record.messages == talk("Add", "3")


def test_numbers_become_text_and_system_prompts_are_kept() -> None:
    record = read({"instruction": "Add", "output": 3, "system": "Be brief."}, "alpaca")
    assert isinstance(record, Record)
    assert [message["role"] for message in record.messages] == ["system", "user", "assistant"]
    assert record.messages[-1]["content"] == "3"


@pytest.mark.parametrize("history", [[["a", "b"], ["c", "d"]], '[["a", "b"], ["c", "d"]]'])
def test_alpacas_history_becomes_earlier_turns(history: object) -> None:
    record = read({"instruction": "e", "output": "f", "history": history}, "alpaca")
    assert isinstance(record, Record) and record.messages == talk("a", "b", "c", "d", "e", "f")
    assert record.instruction == ""
    empty = read({"instruction": "e", "output": "f", "history": []}, "alpaca")
    assert isinstance(empty, Record) and empty.messages == talk("e", "f") and empty.instruction == "e"


BAD: list[tuple[dict[str, object], str, str, str, str]] = [
    ({"instruction": "a", "output": None}, "alpaca", "output", "missing", "null"),
    ({"instruction": "a", "output": "  "}, "alpaca", "output", "empty", "empty"),
    ({"instruction": "a", "output": b"b"}, "alpaca", "output", "wrong_type", "binary data instead of text"),
    ({"instruction": "a", "output": "\ud800"}, "alpaca", "output", "wrong_type", "half a character"),
    ({"instruction": "a", "output": "b", "history": [["x"]]}, "alpaca", "history", "wrong_type", "is not a pair"),
    ({"messages": []}, "messages", "messages", "empty", "conversation is empty"),
    ({"messages": 3}, "messages", "messages", "wrong_type", "not a list of messages"),
    ({"messages": "[oh"}, "messages", "messages", "wrong_type", "not a JSON list"),
    ({"messages": None}, "messages", "messages", "missing", "missing"),
    ({"messages": ["hi"]}, "messages", "messages[1]", "wrong_type", "message 1 is not an object"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages", "messages[1]", "turns", "role 'robot'"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "messages[1]", "turns", "answers no question"),
    ({"messages": talk("a", "b", "c")}, "messages", "messages", "turns", "last message is not the assistant"),
    ({"messages": [*talk("a", "b"), {"role": "system", "content": "s"}]}, "messages", "messages[3]", "turns", "system"),
    ({"messages": talk("a", "", "b", "c")}, "messages", "messages[2]", "empty", "message 2 (assistant) is empty"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]}, "sharegpt",
     "conversations[2]", "empty", "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "form", "field", "kind", "reason"), BAD)
def test_a_row_that_cannot_be_used_is_named(
    row: dict[str, object], form: str, field: str, kind: str, reason: str
) -> None:
    made = read(row, form, number=5)
    assert isinstance(made, Finding)
    assert (made.row, made.field, made.kind) == (5, field, kind)
    assert reason in made.reason and made.fix and made.raw


def test_a_missing_field_is_told_from_an_empty_one() -> None:
    made = Layout("alpaca", {}, ["instruction", "output"]).record(Row(2, {"instruction": "a"}))
    assert isinstance(made, Finding) and (made.kind, made.field) == ("missing", "output")


def test_a_mapping_is_checked_before_it_is_used() -> None:
    names = ["question", "answer"]
    Layout("mapped", {"instruction": "question", "output": "answer"}, names)
    for mapping, said in [
        ({"instruction": "question", "output": "reply"}, r"no column 'reply' for output\. The file has: question, ans"),
        ({"instruction": "question"}, "has no output"),
        ({"quest": "question"}, "'quest' is not a field"),
        ({"text": "question", "output": "answer"}, "map text alone"),
        ({"instruction": "question", "output": "{reply}!"}, "no column 'reply'"),
        ({"instruction": "question.0", "output": "answers.0"}, "no column 'answers.0'"),
    ]:
        with pytest.raises(BadInput, match=said):
            Layout("mapped", mapping, names)
    with pytest.raises(BadInput, match=r"alpaca needs the columns instruction and output\. The file has: question"):
        Layout("alpaca", {}, names)


def test_a_mapping_can_be_a_text_with_columns_in_it() -> None:
    row = {"src": "cat", "lang": "French", "dst": "chat"}
    record = read(row, "mapped", {"instruction": "Say {src} in {lang}.", "output": "dst"})
    assert isinstance(record, Record) and record.messages == talk("Say cat in French.", "chat")
    text = read(row, "mapped", {"text": "{src}: {dst}"})
    assert isinstance(text, Record) and text.text == "cat: chat"
    bad = read(row | {"lang": None}, "mapped", {"instruction": "Say {src} in {lang}.", "output": "dst"})
    assert isinstance(bad, Finding) and bad.field == "lang"


def test_nested_values_are_reached_by_path_and_what_stays_unread_is_said() -> None:
    choices = columns.choices(list(NESTED), [NESTED])
    assert choices == ["name", "instruction", "instances.0.input", "instances.0.output"]
    mapping = columns.guess(choices)
    assert mapping == {
        "instruction": "instruction",
        "input": "instances.0.input",
        "output": "instances.0.output",
    }
    layout = Layout("mapped", mapping, list(NESTED))
    record = layout.record(Row(4, NESTED))
    assert isinstance(record, Record) and record.messages == talk("Add\n\n1 2", "3")
    unused = layout.unused(Row(4, NESTED))
    assert unused is not None and unused.kind == "unused" and "instances has 2 items" in unused.reason
    assert layout.unused(Row(5, NESTED | {"instances": [{"input": "", "output": "3"}]})) is None


def test_a_column_with_dots_in_its_name_is_itself() -> None:
    record = read({"a.b": "q", "a": {"b": "wrong"}, "c": "r"}, "mapped", {"instruction": "a.b", "output": "c"})
    assert isinstance(record, Record) and record.messages == talk("q", "r")


@pytest.mark.parametrize(
    ("names", "mapping"),
    [
        (["question", "answer"], {"instruction": "question", "output": "answer"}),
        (["Prompt", "Response"], {"instruction": "Prompt", "output": "Response"}),
        (["input", "target"], {"instruction": "input", "output": "target"}),
        (["x", "y"], {}),
    ],
)
def test_usual_names_are_guessed(names: list[str], mapping: dict[str, str]) -> None:
    assert columns.guess(names) == mapping
