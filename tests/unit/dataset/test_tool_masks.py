"""Tools and thinking in the templates of eight families: the text, the trained tokens and the remarks.

Wherever a template knows what a conversation holds, text and ids are those of transformers' `apply_chat_template`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from studio.dataset.read.formats import Layout
from studio.dataset.read.rows import Row
from studio.dataset.record import Record
from studio.dataset.tokens.encode import Encoder, Whole
from studio.dataset.tokens.remarks import NOTHING, Remark
from studio.errors import BadInput
from studio.recipe.fields import Data
from tests.unit.dataset.families import BAR, TEMPLATES, TOOL_FAMILIES, encoder_of, folder_of, tokenizer_of, trained


def function(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}
    return {"type": "function", "function": {"name": name, "description": "Of a thing", "parameters": parameters}}


def call(name: str, sku: str, number: str) -> dict[str, Any]:
    """A call as a file has it: its arguments are JSON text."""
    return {"id": number, "type": "function", "function": {"name": name, "arguments": json.dumps({"sku": sku})}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str | None, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | ({"tool_calls": list(calls)} if calls else {}) | more


def result(text: str, number: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": number}


TOOLS = [function("stock"), function("price")]
STOCK, PRICE, LATER = (
    call("stock", "L1", "abc000001"),
    call("price", "L1", "abc000002"),
    call("stock", "Ü", "abc000003"),
)
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a call": ([user("Lamp?"), answer(None, STOCK)], TOOLS),
    "text beside a call": ([user("Lamp?"), answer("Let me look.", STOCK)], TOOLS),
    "parallel calls": (
        [user("Lamp?"), answer(None, STOCK, PRICE), result("3", "abc000001"), result("9", "abc000002"),
         answer("3 at 9.")], TOOLS,
    ),
    "two rounds": (
        [user("Lamp?"), answer(None, STOCK), result("3", "abc000001"), answer("Three."), user("Ü?"),
         answer(None, LATER), result("0", "abc000003"), answer("None.")], TOOLS,
    ),
    "a call without a list of functions": (
        [user("Lamp?"), answer(None, STOCK), result("3", "abc000001"), answer("Three.")], [],
    ),
    "system and functions": ([SYSTEM, user("Hi?"), answer("Hello.")], TOOLS),
    "reasoning last": ([user("2+2?"), answer("4", reasoning_content="Twice 2.")], []),
    "reasoning earlier": (
        [user("2+2?"), answer("4", reasoning_content="Twice 2."), user("And 1?"),
         answer("5", reasoning_content="One more.")], [],
    ),
    "reasoning before a call": ([user("Lamp?"), answer(None, STOCK, reasoning_content="Stock first.")], TOOLS),
    "think in the content": ([user("2+2?"), answer("<think>\nTwice 2.\n</think>\n\n4")], []),
    "weight 0": ([user("Hi?"), answer("Yo.", weight=0), user("Name?"), answer("Ada.")], []),
}  # fmt: skip


def record_of(case: str) -> Record:
    return read(*CONVERSATIONS[case])


def read(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Record:
    record = Layout("messages", {}, ["messages", "tools"]).record(Row(1, {"messages": messages, "tools": tools}))
    assert isinstance(record, Record), record
    return record


# The trained text of each conversation, without the end marker of each answer; the words in braces are the family's.
TRAINED = {
    "a call": "{last}{stock}",
    "text beside a call": "{last}{beside}{stock}",
    "parallel calls": "{both}|{last}{lead}3 at 9.",
    "two rounds": "{stock}|{lead}Three.|{later}|{last}{lead}None.",
    "a call without a list of functions": "{alone}|{last}{lead}Three.",
    "system and functions": "{last}{lead}Hello.",
    "reasoning last": "{lead}{think}Twice 2.\n</think>\n\n4",
    "reasoning earlier": "{earlier}4|{lead}{think}One more.\n</think>\n\n5",
    "reasoning before a call": "{think}Stock first.\n</think>\n\n{stock}",
    "think in the content": "{lead}{think}Twice 2.\n</think>\n\n4",
    "weight 0": "{last}{lead}Ada.",
}


def words(form: str, join: str = "\n", around: str = "{}") -> dict[str, str]:
    """The calls of the conversations in a family's form."""
    pairs = {"stock": [("stock", "L1")], "both": [("stock", "L1"), ("price", "L1")], "later": [("stock", "Ü")]}
    numbers = {("stock", "L1"): "abc000001", ("price", "L1"): "abc000002", ("stock", "Ü"): "abc000003"}
    written = {
        key: around.format(
            join.join(form % {"name": name, "sku": sku, "id": numbers[name, sku]} for name, sku in calls)
        )
        for key, calls in pairs.items()
    }
    plain = {"last": "", "lead": "", "beside": "", "think": "<think>\n", "earlier": "<think>\nTwice 2.\n</think>\n\n"}
    return written | {"alone": written["stock"]} | plain


HERMES = '<tool_call>\n{"name": "%(name)s", "arguments": {"sku": "%(sku)s"}}\n</tool_call>'
CONVENTION = words(HERMES) | {"beside": "Let me look.\n"}
DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>stock\n```json\n"
    '{"sku": "L1"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
WORDS = {
    "qwen3": CONVENTION | {"last": "<think>\n\n</think>\n\n", "earlier": ""},
    "llama3": words('{"name": "%(name)s", "parameters": {"sku": "%(sku)s"}}'),
    "mistral_tools": words(
        '{"name": "%(name)s", "arguments": {"sku": "%(sku)s"}, "id": "%(id)s"}', ", ", "[TOOL_CALLS] [{}]"
    ) | {"lead": " ", "earlier": " <think>\nTwice 2.\n</think>\n\n"},
    "hermes": words(HERMES),
    "gemma": CONVENTION,
    "phi4_mini": CONVENTION,
    # Its prompts open the thinking, and thinking of earlier answers is cut off with its tags.
    "deepseek_r1": CONVENTION | {"think": "", "earlier": "\n\n", "alone": DEEPSEEK},
    "smollm3": CONVENTION,
}  # fmt: skip
REFUSED = {("llama3", "parallel calls"): "only supports single tool-calls at once"}
CASES = [(name, case) for name in WORDS for case in CONVERSATIONS if (name, case) not in REFUSED]

WITH_CALLS = [case for case, (messages, _) in CONVERSATIONS.items() if any("tool_calls" in item for item in messages)]
WITH_TOOLS = [case for case, (_, tools) in CONVERSATIONS.items() if tools]
THOUGHTS = ["reasoning last", "reasoning earlier", "reasoning before a call"]
OWN = Remark.TOOLS_AS_TEXT | Remark.CALLS_AS_TEXT | Remark.THOUGHT_AS_TEXT


def remarks(rules: dict[Remark, list[str]]) -> dict[str, Remark]:
    found = dict.fromkeys(CONVERSATIONS, NOTHING)
    for remark, cases in rules.items():
        found |= {case: found[case] | remark for case in cases}
    return found


BESIDE = {Remark.TEXT_BESIDE_CALL: ["text beside a call"], Remark.THOUGHT_AS_TEXT: THOUGHTS}
NO_TOOLS = {Remark.TOOLS_AS_TEXT: [*WITH_CALLS, "system and functions"], Remark.THOUGHT_AS_TEXT: THOUGHTS}
LISTED = {Remark.CALLS_AS_TEXT: [case for case in WITH_CALLS if case in WITH_TOOLS], Remark.THOUGHT_AS_TEXT: THOUGHTS}
ALONE = "a call without a list of functions"
REMARKS = {
    "qwen3": remarks({Remark.THOUGHT_LEFT_OUT: ["reasoning earlier"]}),
    "llama3": remarks(BESIDE),
    "mistral_tools": remarks(BESIDE),
    # Its template for conversations without functions knows no calls.
    "hermes": remarks(BESIDE | {Remark.TOOLS_AS_TEXT: [ALONE]}),
    "gemma": remarks(NO_TOOLS),
    "phi4_mini": remarks(NO_TOOLS),
    "deepseek_r1": remarks({
        Remark.TOOLS_AS_TEXT: WITH_TOOLS, Remark.THOUGHT_AS_TEXT: [*THOUGHTS, "think in the content"],
        Remark.THOUGHT_LEFT_OUT: ["reasoning earlier"],
        Remark.THOUGHT_OPENED: ["a call", "text beside a call", "parallel calls", "two rounds", ALONE,
                                "system and functions", "weight 0"],
    }),
    "smollm3": remarks(LISTED | {Remark.TOOLS_AS_TEXT: [ALONE]}),
}  # fmt: skip


def encoded(name: str, case: str, train_on: str = "assistant") -> tuple[Encoder, Whole]:
    encoder = encoder_of(name, train_on)
    return encoder, encoder.encode([record_of(case)])[0]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_answers_are_trained_with_their_calls_their_thinking_and_one_end(name: str, case: str) -> None:
    end = TOOL_FAMILIES[name].end
    want = [answer + end for answer in TRAINED[case].format(**WORDS[name]).split("|")]
    encoder, whole = encoded(name, case)
    assert trained(encoder, whole).split(BAR) == want
    assert whole.remarks == REMARKS[name][case]
    encoder, last = encoded(name, case, "completions")
    assert trained(encoder, last) == want[-1]
    # Of DeepSeek's, the call follows a prompt that opens a thought, and the answer after it does not.
    same = whole.remarks & ~Remark.THOUGHT_OPENED if case == ALONE else whole.remarks
    assert (last.input_ids, last.remarks) == (whole.input_ids, same)


@pytest.mark.parametrize(("name", "case"), REFUSED)
def test_what_a_template_refuses_is_refused_in_its_words(name: str, case: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[name, case]):
        encoded(name, case)


def native(name: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as transformers wants them: arguments as an object, except where a template wants their text."""
    kept = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    for message in kept:
        calls = [item["function"] for item in message.get("tool_calls", ())]
        if calls and name != "deepseek_r1":
            message["tool_calls"] = [
                item | {"function": item["function"] | {"arguments": json.loads(item["function"]["arguments"])}}
                for item in message["tool_calls"]
            ]
    return kept


# transformers removes content that is null, without which DeepSeek-R1's template writes no call.
NATIVE = [pair for pair in CASES if not REMARKS[pair[0]][pair[1]] & OWN and pair != ("deepseek_r1", ALONE)]


@pytest.mark.parametrize(("name", "case"), NATIVE)
def test_text_and_ids_are_those_of_transformers(name: str, case: str) -> None:
    reference = tokenizer_of(name)
    messages, tools = CONVERSATIONS[case]
    options = {"tools": tools} if tools else {}
    _, whole = encoded(name, case)
    assert whole.text == reference.apply_chat_template(native(name, messages), tokenize=False, **options)
    assert (
        whole.input_ids
        == reference.apply_chat_template(native(name, messages), return_dict=True, **options)["input_ids"]
    )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_prompt_of_the_last_answer_is_that_of_chat(name: str, case: str) -> None:
    messages, record = CONVERSATIONS[case][0], record_of(case)
    thinks = "<think>" in str(messages) or "reasoning_content" in messages[-1]
    if name == "deepseek_r1" and not thinks and case != ALONE:
        # Its prompt opens the thinking, which the example has not: the person is told.
        assert Remark.THOUGHT_OPENED in encoded(name, case, "completions")[1].remarks
        return
    encoder, whole = encoded(name, case, "completions")
    assert whole.input_ids[: whole.spans[0][0]] == encoder.prompt_ids(record.messages[:-1], record.tools)


CONVENTION_TEXT = """\
<bos><start_of_turn>user
Be brief.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{stock}
{price}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>

Lamp?<end_of_turn>
<start_of_turn>model
<think>
Stock first.
</think>

Let me look.
<tool_call>
{{"name": "stock", "arguments": {{"sku": "L1"}}}}
</tool_call>
<tool_call>
{{"name": "price", "arguments": {{"sku": "L1"}}}}
</tool_call><end_of_turn>
<start_of_turn>user
<tool_response>
3
</tool_response>
<tool_response>
9
</tool_response><end_of_turn>
<start_of_turn>model
3 at 9.<end_of_turn>
"""


def test_the_convention_of_a_template_without_tools_or_system_prompts_in_full() -> None:
    calls = answer("Let me look.", STOCK, PRICE, reasoning_content="Stock first.")
    messages = [SYSTEM, user("Lamp?"), calls, result("3", "abc000001"), result("9", "abc000002"), answer("3 at 9.")]
    whole = encoder_of("gemma", "assistant").encode([read(messages, TOOLS)])[0]
    assert whole.text == CONVENTION_TEXT.format(stock=json.dumps(TOOLS[0]), price=json.dumps(TOOLS[1]))
    assert whole.remarks == Remark.TOOLS_AS_TEXT | Remark.THOUGHT_AS_TEXT


@pytest.mark.parametrize("number", ["c1", "", "call_1234567890", "abc-00001"])
def test_ids_that_mistral_would_refuse_are_replaced_in_call_and_result(number: str) -> None:
    first = [user("Lamp?"), answer(None, STOCK | {"id": number}), result("3", number), answer("Three.")]
    again = [user("Ü?"), answer(None, LATER | {"id": number}), result("0", number), answer("None.")]
    whole = encoder_of("mistral_tools", "assistant").encode([read([*first, *again], TOOLS)])[0]
    assert [whole.text.count(f'"id": "call0000{n}"') for n in (1, 2)] == [1, 1]
    assert [whole.text.count(f'"call_id": "call0000{n}"') for n in (1, 2)] == [1, 1]


def test_a_call_that_is_made_twice_is_trained_in_both_places() -> None:
    turns = [user("Lamp?"), answer(None, STOCK), result("3", "abc000001"), answer("Three.")]
    for name in TOOL_FAMILIES:
        encoder = encoder_of(name, "assistant")
        whole = encoder.encode([read([*turns, *turns], TOOLS)])[0]
        first, second, third, fourth = trained(encoder, whole).split(BAR)
        assert (first, second) == (third, second) and fourth.endswith(second), name
        assert len({span for span in whole.spans}) == 4


def test_a_thought_whose_words_stand_elsewhere_is_still_said_to_be_left_out() -> None:
    messages = [user("2+2?"), answer("4", reasoning_content="2"), user("And 1?"), answer("5")]
    assert encoder_of("qwen3", "assistant").encode([read(messages, [])])[0].remarks == Remark.THOUGHT_LEFT_OUT


def test_two_templates_in_the_tokenizers_configuration(tmp_path: Path) -> None:
    """Models saved by older releases have both templates there, by name."""
    new, folder = folder_of("hermes"), tmp_path / "old"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((new / "tokenizer.json").read_bytes())
    files = {"default": "hermes.jinja", "tool_use": "hermes.tool_use.jinja"}
    named = [{"name": key, "template": (TEMPLATES / "tools" / file).read_text()} for key, file in files.items()]
    config = json.loads((new / "tokenizer_config.json").read_text()) | {"chat_template": named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for case in CONVERSATIONS:
        assert Encoder(folder, Data(train_on="assistant")).encode([record_of(case)])[0] == encoded("hermes", case)[1]


TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"
LOOP = (
    "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n%CALLS%{% else %}%TURN%<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def own_template(calls: str, turn: str = TURN, opening: str = OPENING) -> str:
    return LOOP.replace("%CALLS%", calls).replace("%TURN%", turn) + opening


def test_a_template_that_writes_only_the_first_call_is_found_out() -> None:
    template = own_template("{{ m.tool_calls[0].function | tojson }}<|im_end|>\n")
    messages, _ = CONVERSATIONS["parallel calls"]
    encoder = encoder_of("qwen3", "assistant", template)
    assert encoder.encode([read(messages, [])])[0].remarks == Remark.CALLS_LEFT_OUT
    assert encoder.encode([record_of(ALONE)])[0].remarks == NOTHING


def test_a_call_without_an_end_before_its_result_is_trained_alone() -> None:
    template = own_template(
        "{{ m.tool_calls[0].function | tojson }}", opening=OPENING.replace("{% endif", "<think>\n{% endif")
    )
    encoder = encoder_of("qwen3", "assistant", template)
    whole = encoder.encode([record_of(ALONE)])[0]
    assert trained(encoder, whole) == '{"name": "stock", "arguments": {"sku": "L1"}}' + BAR + "Three.<|im_end|>"


def test_thinking_is_trained_where_the_prompt_has_closed_it() -> None:
    thought = "{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    turn = TURN.replace("{{ m.content", thought + "{{ m.content")
    template = own_template("", turn, OPENING.replace("{% endif", "<think>\n\n</think>\n\n{% endif"))
    encoder = encoder_of("qwen3", "completions", template)
    assert trained(encoder, encoder.encode([record_of("reasoning last")])[0]) == "Twice 2.\n</think>\n\n4<|im_end|>"


def test_results_in_the_same_turn_as_their_call_are_never_trained() -> None:
    result = "{% if messages[loop.index] %}<result>{{ messages[loop.index].content }}{% endif %}"
    template = own_template("{{ m.tool_calls[0].function | tojson }}" + result + "<|im_end|>\n")
    template = template.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    with pytest.raises(BadInput, match="cannot be located"):
        encoder_of("qwen3", "assistant", template).encode([record_of(ALONE)])
    encoder = encoder_of("qwen3", "completions", template)
    assert trained(encoder, encoder.encode([record_of(ALONE)])[0]) == "Three.<|im_end|>"
