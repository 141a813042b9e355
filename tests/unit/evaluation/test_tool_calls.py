"""Tool calls in answers: the forms in which models write them, their equality as JSON, and the check of them."""

from pathlib import Path
from typing import Any

import pytest

from studio.dataset.record import Record
from studio.errors import BadInput
from studio.evaluation import prompts, rules
from studio.evaluation.grades import mark_of
from studio.evaluation.prompts import Check, Prompt
from studio.evaluation.scores import Row, score_set
from studio.evaluation.tool_calls import Call, calls_in, same, same_value
from studio.services.evals import prompt_sets

STOCK = '{"name": "get_stock", "arguments": {"sku": "L0"}}'
TRACK = '{"name": "track_order", "arguments": {"order_id": 7}}'
ONE = [Call("get_stock", {"sku": "L0"})]
TWO = [*ONE, Call("track_order", {"order_id": 7})]
LLAMA = STOCK.replace("arguments", "parameters")


@pytest.mark.parametrize(
    "answer",
    [
        f"<tool_call>\n{STOCK}\n</tool_call>",
        f"Let me look.\n<tool_call>{STOCK}</tool_call>",
        f"<tool_call>\n{STOCK}",
        f"<tool_call>[{STOCK}]</tool_call>",
        f"<think>\nPerhaps <tool_call>{TRACK}</tool_call>?\n</think>\n\n<tool_call>{STOCK}</tool_call>",
        f"[TOOL_CALLS][{STOCK}]",
        f"[TOOL_CALLS] [{STOCK}]</s>",
        '[TOOL_CALLS]get_stock[ARGS]{"sku": "L0"}',
        LLAMA,
        f"<|python_tag|>{LLAMA}",
        f"Here it is:\n```json\n{STOCK}\n```",
        f"```\n[{STOCK}]\n```\nDone.",
        f"  {STOCK}\n",
        f"[{STOCK}]",
        f'{{"type": "function", "function": {STOCK}}}',
        f'{{"tool_calls": [{{"id": "c1", "function": {STOCK}}}]}}',
        '{"name": "get_stock", "arguments": "{\\"sku\\": \\"L0\\"}"}',
    ],
)
def test_a_call_is_read_in_every_form(answer: str) -> None:
    assert calls_in(answer) == ONE


@pytest.mark.parametrize(
    "answer",
    [
        f"<tool_call>{STOCK}</tool_call>\n<tool_call>{TRACK}</tool_call>",
        f"<tool_call>\n{STOCK}\n{TRACK}\n</tool_call>",
        f"[TOOL_CALLS][{STOCK}, {TRACK}]",
        '[TOOL_CALLS]get_stock[ARGS]{"sku": "L0"}[TOOL_CALLS]track_order[CALL_ID]abc[ARGS]{"order_id": 7}',
        f"{LLAMA}; {TRACK}",
        f"```json\n{STOCK}\n```\nand\n```json\n{TRACK}\n```",
    ],
)
def test_several_calls_are_read_in_order(answer: str) -> None:
    assert calls_in(answer) == TWO


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "It is in stock.",
        "{}",
        "[1]",
        '{"name": 1, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "function": 1}',
        "<tool_call>{'name': 'get_stock'}</tool_call>",
        f"<tool_call>{STOCK}</tool_call><tool_call>{STOCK[:-9]}</tool_call>",
        f"<think>{STOCK}",
        f"{STOCK} is what I would call",
        "[TOOL_CALLS]",
        "[" * 100_000,
    ],
)
def test_what_is_no_valid_call_is_none(answer: str) -> None:
    assert calls_in(answer) == []


@pytest.mark.parametrize(
    ("value", "other", "equal"),
    [
        ({"a": 1, "b": [1, {"c": None}]}, {"b": [1, {"c": None}], "a": 1}, True),
        (1, 1.0, True),
        (True, 1, False),
        (False, 0.0, False),
        ("1", 1, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("L0", "l0", False),
        (None, None, True),
        ([], {}, False),
    ],
)
def test_arguments_are_equal_as_json(value: Any, other: Any, equal: bool) -> None:
    assert same_value(value, other) == same_value(other, value) == equal


def test_the_same_calls_count_in_any_order_and_as_often() -> None:
    assert same(TWO, TWO[::-1])
    assert not same(ONE, TWO) and not same(TWO, ONE) and not same(ONE * 2, ONE) and not same([], ONE)


def test_a_check_of_calls_says_what_it_wants_and_judges() -> None:
    check = prompts.checked({"tool_call": [STOCK]}, "Line 1")
    assert check.words == "calls get_stock with sku L0"
    assert Check("tool_call", (STOCK, TRACK)).words == "calls get_stock with sku L0 and track_order with order_id 7"
    assert prompts.checked({"tool_call": '{"name": "list_orders"}'}, "").words == "calls list_orders"
    assert rules.met(check, f"<tool_call>{STOCK}</tool_call>") and rules.met(check, LLAMA)
    for wrong in (STOCK.replace("L0", "L1"), STOCK.replace("get_stock", "stock"), f"{STOCK}\n{STOCK}", "L0", ""):
        assert not rules.met(check, wrong)


@pytest.mark.parametrize("broken", ["get_stock", '{"arguments": {}}', f"[{STOCK}, {TRACK}]", "[]"])
def test_a_check_without_a_call_is_refused_with_the_form_that_is_needed(broken: str) -> None:
    with pytest.raises(BadInput, match=r'Line 3: .* is not a call: JSON as \{"name": "f", "arguments": \{\}\}'):
        prompts.checked({"tool_call": [STOCK, broken]}, "Line 3")


def test_a_row_that_ends_in_a_call_is_checked_for_it(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Is L0 there?"}
    function = {"name": "get_stock", "arguments": {"sku": "L0"}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    tools = [{"type": "function", "function": {"name": "get_stock"}}]
    prompt = prompt_sets.of_record(Record(1, [user, call], tools=tools))
    assert prompt.check == Check("tool_call", (STOCK,)) and prompt.reference == STOCK
    assert mark_of(prompt, f"<tool_call>{STOCK}</tool_call>") == ("good", "as expected")
    result, answer = {"role": "tool", "content": "3"}, {"role": "assistant", "content": "Yes, 3."}
    final = prompt_sets.of_record(Record(2, [user, call, result, answer], tools=tools))
    assert final.check is None and final.reference == "Yes, 3."
    path = tmp_path / "prompts.jsonl"
    path.write_text(prompts.dump([prompt, final]), encoding="utf-8")
    assert prompts.load(path) == [prompt, final]


def test_calls_are_not_compared_as_text_which_differs_by_model() -> None:
    prompt = Prompt(({"role": "user", "content": "?"},), STOCK, Check("tool_call", (STOCK,)))
    answers = {"base": "no", "adapted": f"<tool_call>{STOCK}</tool_call>"}
    scores = score_set("held-out", "Held-out examples", "held-out", [Row("held-out", prompt, answers)] * 8, {})
    assert [(score.metric, score.counts) for score in scores.scores] == [("check", {"base": 0, "adapted": 8})]
    assert scores.sentences["adapted"] == "As expected 8 of 8, before 0 of 8: better."
