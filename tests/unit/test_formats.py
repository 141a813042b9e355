"""Formats: what the columns mean, and one record of each row."""

import pytest

from studio.dataset.formats import Record, check_mapping, detect, to_record
from studio.dataset.read import Reject
from studio.errors import BadInput


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt/completion"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "sharegpt"),
        ({"text": "once upon a time"}, "text"),
        ({"question": "a", "answer": "b"}, None),
        ({"instruction": "a", "instances": [{"input": "", "output": "b"}]}, None),
    ],
)
def test_a_format_is_found_with_its_reason(row: dict[str, object], form: str | None) -> None:
    found = detect(row.keys(), [row])
    assert found.format == form
    assert found.why


def test_all_formats_make_the_same_conversation() -> None:
    rows = {
        "alpaca": {"instruction": "Add", "input": "1 and 2", "output": "3"},
        "prompt/completion": {"prompt": "Add\n\n1 and 2", "completion": "3"},
        "messages": {
            "messages": [{"role": "user", "content": "Add\n\n1 and 2"}, {"role": "assistant", "content": "3"}]
        },
        "sharegpt": {"conversations": [{"from": "human", "value": "Add\n\n1 and 2"}, {"from": "gpt", "value": "3"}]},
    }
    wanted = [{"role": "user", "content": "Add\n\n1 and 2"}, {"role": "assistant", "content": "3"}]
    for form, row in rows.items():
        record = to_record(1, row, form, {})  # type: ignore[arg-type]
        assert isinstance(record, Record) and record.messages == wanted, form


def test_numbers_become_text_and_system_prompts_are_kept() -> None:
    record = to_record(1, {"instruction": "Add", "output": 3, "system": "Be brief."}, "alpaca", {})
    assert isinstance(record, Record)
    assert [message["role"] for message in record.messages] == ["system", "user", "assistant"]
    assert record.messages[-1]["content"] == "3"


@pytest.mark.parametrize(
    ("row", "form", "field", "reason"),
    [
        ({"instruction": "a"}, "alpaca", "output", "missing"),
        ({"instruction": "a", "output": "  "}, "alpaca", "output", "empty"),
        ({"instruction": "a", "output": ["b"]}, "alpaca", "output", "a list instead of text"),
        ({"instruction": "a", "output": "\ud800"}, "alpaca", "output", "half a character"),
        ({"messages": []}, "messages", "messages", "no list of messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages", "messages", "role 'robot'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "messages", "turn 1 is assistant's"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages", "messages", "last message is not the assistant"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]}, "sharegpt", "conversations", "empty"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named(row: dict[str, object], form: str, field: str, reason: str) -> None:
    made = to_record(5, row, form, {})  # type: ignore[arg-type]
    assert isinstance(made, Reject)
    assert (made.row, made.field) == (5, field)
    assert reason in made.reason and made.fix


def test_a_mapping_is_checked_before_it_is_used() -> None:
    columns = ["question", "answer"]
    check_mapping({"instruction": "question", "output": "answer"}, columns)
    with pytest.raises(BadInput, match=r"no column 'reply' for output\. The file has: question, answer"):
        check_mapping({"instruction": "question", "output": "reply"}, columns)
    with pytest.raises(BadInput, match="lacks output"):
        check_mapping({"instruction": "question"}, columns)
    with pytest.raises(BadInput, match="'quest' is no field"):
        check_mapping({"quest": "question"}, columns)
