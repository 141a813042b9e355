"""What is trained: exactly the answers and their end markers, for the templates of the families people use.

tests/data/templates holds each family's chat template as its models ship it (llama3, gemma, phi3 and qwen3 by way of
TRL's chat_templates, Apache 2.0), and the same with `{% generation %}` around the assistant's part: transformers
renders the second and must agree in every id and every mask.
"""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from studio.dataset.record import Record
from studio.dataset.tokens.encode import IGNORED, Encoder
from studio.errors import BadInput
from studio.recipe.fields import Data
from tests.unit.dataset.families import (
    BAR,
    FAMILIES,
    TEMPLATES,
    Messages,
    encode,
    encoder_of,
    folder_of,
    make_tokenizer,
    reference_of,
    talk,
    trained,
)

MULTI = talk("Hi?", "Hello.", "Name?", "Ada.")


@pytest.mark.parametrize(
    ("name", "last", "every"),
    [
        ("chatml", "Ada.<|im_end|>", "Hello.<|im_end|>‖Ada.<|im_end|>"),
        ("llama3", "Ada.<|eot_id|>", "Hello.<|eot_id|>‖Ada.<|eot_id|>"),
        ("mistral", " Ada.</s>", " Hello.</s>‖ Ada.</s>"),
        ("mistral_v3", " Ada.</s>", " Hello.</s>‖ Ada.</s>"),
        ("gemma", "Ada.<end_of_turn>", "Hello.<end_of_turn>‖Ada.<end_of_turn>"),
        ("phi3", "Ada.<|end|>", "Hello.<|end|>‖Ada.<|end|>"),
        # The model itself writes the empty thought after the prompt of the last turn.
        ("qwen3", "<think>\n\n</think>\n\nAda.<|im_end|>", "Hello.<|im_end|>‖<think>\n\n</think>\n\nAda.<|im_end|>"),
    ],
)
def test_the_trained_text_in_so_many_words(name: str, last: str, every: str) -> None:
    assert trained(*encode(name, "completions", MULTI)) == last
    assert trained(*encode(name, "assistant", MULTI)) == every
    whole = encode(name, "everything", MULTI)[1]
    assert whole.spans == ((0, len(whole.input_ids)),)
    assert whole.cut(4096).labels == whole.input_ids


CASES = {
    "single turn": talk("Hi?", "Hello."),
    "several turns": MULTI,
    "six turns": talk("a", "b", "a", "b", "a", "b"),
    "system prompt": talk("Hi?", "Hello.", "Name?", "Ada.", system="Be brief."),
    "white space around": talk(" Hi? \n", "\n  Hello. \n\n", "Name? ", " Ada.\n"),
    "an answer like the question": talk("yes", "yes", "yes", "yes"),
    "looks like a thought": talk("Hi?", "<think>", "Name?", "<think>\nA"),
    "a thought begun": talk("Hi?", "<thi", "Name?", "<thi"),
    "holds the user's turn": talk("Name?", "You asked: Name?\n", "Name?", "[INST] Name? [/INST] Ada."),
    "holds the template's own words": talk("Hi?", "user\nName?\nassistant\nAda.", "Name?", "assistant\n"),
    "a whole thought": talk("Hi?", "<think>\nWell.\n</think>\n\nHello.", "Name?", "<think>\nA name.\n</think>\n\nAda."),
    "a thought and nothing else": talk("Hi?", "<think>a</think>", "Name?", "<think>b</think>"),
    "unicode": talk("Größe?", "1,80 m – 😀", "中文?", "中文。é 👩‍👩‍👧"),
    "ends past ascii": talk("?", "é", "?", "😀"),
    "an empty answer first": talk("Hi?", "", "Name?", "Ada."),
    "special tokens inside": talk("Hi?", "a<|im_end|>b</s>", "Name?", "x<end_of_turn> y"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_masks_are_those_of_transformers(name: str, case: str) -> None:
    messages, family = CASES[case], FAMILIES[name]
    if not family.system and messages[0]["role"] == "system":
        with pytest.raises(BadInput, match=r"Row 1: .*System role not supported"):
            encode(name, "completions", messages)
        return
    reference = reference_of(name)
    theirs = reference.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    mask = theirs["assistant_masks"]
    runs, position = [], 0
    for value, group in itertools.groupby(mask):
        length = len(list(group))
        if value:
            runs.append((position, position + length))
        position += length
    # Phi-3's opening token swallows white space: transformers then trains it as well, we do not.
    opening = reference.convert_tokens_to_ids("<|assistant|>") if family.rstrip else None
    runs = [(start + (theirs["input_ids"][start] == opening), end) for start, end in runs]
    _, every = encode(name, "assistant", messages)
    _, last = encode(name, "completions", messages)
    plain = (TEMPLATES / f"{name}.jinja").read_text()
    assert every.text == last.text == reference.apply_chat_template(messages, tokenize=False, chat_template=plain)
    assert every.input_ids == last.input_ids == theirs["input_ids"]
    assert list(every.spans) == runs
    assert list(last.spans) == runs[-1:]
    labels = every.cut(4096).labels
    assert [label != IGNORED for label in labels] == [any(a <= i < b for a, b in runs) for i in range(len(labels))]
    marked = (TEMPLATES / f"{name}.marked.jinja").read_text()
    assert encode(name, "assistant", messages, marked)[1] == every
    assert encode(name, "completions", messages, marked)[1] == last


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_counted_is_what_is_encoded(name: str) -> None:
    records = [Record(row, case) for row, case in enumerate(CASES.values(), 1) if case[0]["role"] != "system"]
    for train_on in ("completions", "assistant", "everything"):
        encoder = encoder_of(name, train_on)
        wholes = encoder.encode(records)
        assert [(item.row, item.input_ids, item.spans) for item in encoder.count(records)] == [
            (whole.row, whole.input_ids, whole.spans) for whole in wholes
        ]
        for whole in wholes:
            assert "".join(encoder.pieces(whole)) == whole.text


@pytest.mark.parametrize(
    ("name", "messages", "want"),
    [
        # Qwen 3 drops the thoughts of earlier turns; that of the last one is the model's to write.
        ("qwen3", CASES["a whole thought"], "Hello.<|im_end|>‖<think>\nA name.\n</think>\n\nAda.<|im_end|>"),
        # Mistral's v0.3 never writes the system message of a whole conversation, and does for its prompt.
        ("mistral_v3", CASES["system prompt"], " Hello.</s>‖ Ada.</s>"),
        ("chatml", CASES["white space around"], "\n  Hello. \n\n<|im_end|>‖ Ada.\n<|im_end|>"),
        ("gemma", CASES["white space around"], "Hello.<end_of_turn>‖Ada.<end_of_turn>"),
        ("phi3", CASES["holds the user's turn"], "You asked: Name?\n<|end|>‖[INST] Name? [/INST] Ada.<|end|>"),
        ("llama3", CASES["an empty answer first"], "<|eot_id|>‖Ada.<|eot_id|>"),
    ],
)
def test_awkward_conversations_in_so_many_words(name: str, messages: Messages, want: str) -> None:
    assert trained(*encode(name, "assistant", messages)) == want
    assert trained(*encode(name, "completions", messages)) == want.rpartition(BAR)[2]


OWN = {
    "no special end": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "Hello.‖Ada.<|im_end|>",
    ),
    # Chat's prompt ends where it does here, so that the opening is the model's to write.
    "no opening of an answer": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
        "<|im_start|>assistant\nHello.<|im_end|>‖<|im_start|>assistant\nAda.<|im_end|>",
    ),
    "loud": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "HELLO.<|im_end|>‖ADA.<|im_end|>",
    ),
    "the prompt opens a thought": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        "Hello.<|im_end|>‖Ada.<|im_end|>",
    ),
    "the next turn begins with a special token": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "Hello.‖Ada.<|im_end|>",
    ),
    "two blocks of one answer": (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% generation %}<|im_end|>{% endgeneration %}{% else %}"
        "{{ m.content }}{% endif %}{% endfor %}",
        "Hello.<|im_end|>‖Ada.<|im_end|>",
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_templates_nobody_has_seen_before(case: str) -> None:
    template, want = OWN[case]
    assert trained(*encode("chatml", "assistant", MULTI, template)) == want
    assert trained(*encode("chatml", "completions", MULTI, template)) == want.rpartition(BAR)[2]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{% endfor %}",
    ],
)
def test_a_template_that_hides_the_answers_is_refused_with_a_way_out(template: str) -> None:
    with pytest.raises(BadInput, match=r"Row 1: The chat template of .* set train_on to everything"):
        encode("chatml", "assistant", MULTI, template)
    encode("chatml", "everything", MULTI, template)


@pytest.mark.parametrize("case", CASES)
def test_offsets_without_white_space_hide_no_token(case: str, tmp_path: Path) -> None:
    """Many tokenizers trim white space from their offsets: tokens of nothing else then have no width."""
    folder = tmp_path / "trimmed"
    folder.mkdir()
    for path in folder_of("chatml").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for train_on in ("completions", "assistant"):
        encoder = Encoder(folder, Data.model_validate({"train_on": train_on}))
        whole = encoder.encode([Record(1, CASES[case])])[0]
        assert whole.spans == encode("chatml", train_on, CASES[case])[1].spans
        assert "".join(encoder.pieces(whole)) == whole.text


def test_a_token_across_the_border_is_the_answers(tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    for path in folder_of("chatml").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    told = json.loads((folder / "tokenizer.json").read_text())
    told["model"]["merges"] = [["Ċ", "Ċ"]]
    told["model"]["vocab"]["ĊĊ"] = len(told["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(told))
    encoder = Encoder(folder, Data())
    whole = encoder.encode([Record(1, talk("Hi?", "\n\nHello."))])[0]
    assert trained(encoder, whole) == "\n\n\nHello.<|im_end|>"


# Four control characters are white space to Python and none to tokenizers.
LETTERS = st.characters(exclude_categories=["Cs", "Co", "Cn"], exclude_characters="\x1c\x1d\x1e\x1f")
TEXTS = st.text(alphabet=LETTERS, max_size=40)


@given(name=st.sampled_from(sorted(FAMILIES)), turns=st.lists(TEXTS, min_size=2, max_size=6), every=st.booleans())
@settings(deadline=None, max_examples=150)
def test_whatever_is_said_only_the_answers_are_trained(name: str, turns: list[str], every: bool) -> None:
    turns = turns[: len(turns) // 2 * 2]
    family = FAMILIES[name]
    encoder, whole = encode(name, "assistant" if every else "completions", talk(*turns))
    answers = turns[1::2] if every else turns[-1:]
    answers = [answer.strip() if family.trims else answer for answer in answers]
    if family.rstrip:
        answers = [answer.lstrip() for answer in answers]
    openings = [""] * (len(answers) - 1) + [family.opening]
    if family.opening == " ":
        openings = [" "] * len(answers)
    else:
        answers[-1] = answers[-1].lstrip("\n") if family.opening else answers[-1]
    want = [opening + answer + family.end for opening, answer in zip(openings, answers, strict=True)]
    assert trained(encoder, whole) == BAR.join(want)
    assert "".join(encoder.pieces(whole)) == whole.text
