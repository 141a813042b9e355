"""What the model sees: rendered, tokenised, masked, cut and split."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.dataset.record import Record
from studio.dataset.tokens.encode import IGNORED, Encoder, load_tokenizer
from studio.dataset.tokens.template import alpaca_prompt
from studio.dataset.tokens.training_set import encode_dataset
from studio.errors import BadInput
from studio.recipe import Recipe
from studio.recipe.fields import Data
from studio.services.core.studio import Studio
from studio.services.data import datasets
from tests.tiny import CHATML, tiny_model


def record(question: str, answer: str, row: int = 1) -> Record:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Record(row, messages, instruction=question)


def trained_text(encoder: Encoder, example_labels: list[int]) -> str:
    return encoder.tokenizer.decode([label for label in example_labels if label != IGNORED], skip_special_tokens=False)


def test_only_the_answer_and_its_end_are_trained(tiny: Path) -> None:
    encoder = Encoder(tiny, Data())
    whole = encoder.encode([record("Hello?", "Good day.")])[0]
    assert whole.text == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nGood day.<|im_end|>\n"
    assert trained_text(encoder, whole.cut(1024).labels) == "Good day.<|im_end|>"
    assert whole.cut(1024).input_ids == whole.input_ids


def test_everything_can_be_trained(tiny: Path) -> None:
    encoder = Encoder(tiny, Data(train_on="everything"))
    example = encoder.encode([record("Hello?", "Good day.")])[0].cut(1024)
    assert example.labels == example.input_ids


def test_alpaca_text_ends_with_the_end_token(tiny: Path) -> None:
    encoder = Encoder(tiny, Data(template="alpaca"))
    whole = encoder.encode([record("Hello?", "Good day.")])[0]
    assert whole.text == alpaca_prompt("Hello?") + "Good day.<|im_end|>"
    assert trained_text(encoder, whole.cut(1024).labels) == "Good day.<|im_end|>"
    assert "### Input:" not in whole.text


def test_a_system_prompt_is_put_first_unless_there_is_one(tiny: Path) -> None:
    encoder = Encoder(tiny, Data(system_prompt="Be brief."))
    assert encoder.encode([record("Hello?", "Hi.")])[0].text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    own = Record(1, [{"role": "system", "content": "Be long."}, *record("Hello?", "Hi.").messages])
    assert "Be brief." not in encoder.encode([own])[0].text


@pytest.mark.parametrize(
    "shape", [{"template": "alpaca"}, {"template": "custom", "custom_template": "Q: {instruction}\nA: {output}"}]
)
def test_a_system_prompt_without_a_place_in_the_template_is_not_lost(tiny: Path, shape: dict[str, str]) -> None:
    told, own = "Be brief.", "Be long."
    encoder = Encoder(tiny, Data(system_prompt=told, **shape))  # type: ignore[arg-type]
    plain = Encoder(tiny, Data(**shape))  # type: ignore[arg-type]
    text = plain.encode([record("Hello?", "Hi.")])[0].text
    assert encoder.encode([record("Hello?", "Hi.")])[0].text == f"{told}\n\n{text}"
    messages = [{"role": "system", "content": own}, *record("Hello?", "Hi.").messages]
    assert encoder.encode([Record(1, messages, "Hello?")])[0].text == f"{own}\n\n{text}"
    whole = encoder.encode([record("Hello?", "Hi.")])[0]
    assert encoder.prompt_ids([{"role": "user", "content": "Hello?"}]) == whole.input_ids[: whole.spans[0][0]]


def test_the_question_at_chat_is_the_prompt_that_was_trained(tiny: Path) -> None:
    encoder = Encoder(tiny, Data(system_prompt="Be brief."))
    whole = encoder.encode([record("Hello?", "Hi.")])[0]
    assert encoder.prompt_ids([{"role": "user", "content": "Hello?"}]) == whole.input_ids[: whole.spans[0][0]]
    assert encoder.eos_ids == [2]


@given(st.text(max_size=60), st.text(min_size=1, max_size=60))
def test_the_pieces_shown_are_the_text(question: str, answer: str) -> None:
    encoder = _encoder()
    whole = encoder.encode([record(question, answer)])[0]
    pieces = encoder.pieces(whole)
    assert len(pieces) == len(whole.input_ids)
    assert "".join(pieces) == whole.text


def _encoder(made: list[Encoder] = []) -> Encoder:  # noqa: B006 made once for all examples
    if not made:
        import tempfile

        made.append(Encoder(tiny_model(Path(tempfile.mkdtemp()) / "tiny"), Data()))
    return made[0]


def test_rows_are_cut_counted_and_left_out_when_nothing_is_left_to_train(ready: Studio, tiny: Path) -> None:
    folder = datasets.folder_of(ready, "little")
    everything = encode_dataset(folder, Data(held_out=0), tiny, seed=0)
    assert (len(everything.train), everything.truncated, everything.skipped) == (24, 0, 0)
    short = encode_dataset(folder, Data(held_out=0, max_length=24), tiny, seed=0)
    assert (len(short.train), short.truncated, short.skipped) == (0, 24, 24)
    assert any("24 examples have no trained token" in note for note in short.notes)


def test_a_template_that_refuses_names_the_row(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "strict", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadInput, match=r"Row 7: .*strict cannot render this example: roles must alternate"):
        Encoder(folder, Data()).encode([record("a", "b", row=7)])
    with pytest.raises(BadInput, match="has no chat template"):
        Encoder(tiny_model(tmp_path / "bare", template=None), Data())


PICKY = "{% if '7' in messages[0].content %}{{ raise_exception('no sevens') }}{% endif %}" + CHATML


def test_rows_that_a_template_refuses_are_left_out_and_counted(ready: Studio, tmp_path: Path) -> None:
    folder = datasets.folder_of(ready, "little")
    made = encode_dataset(folder, Data(held_out=0), tiny_model(tmp_path / "picky", PICKY), seed=0)
    # 6 and 7, 7 and 8, 16 and 17, 17 and 18
    assert (len(made.train), made.skipped, made.refused.total) == (20, 4, 4)
    assert made.refused.rows[0][0] == 7 and "no sevens" in made.refused.rows[0][1]
    assert any(note.startswith("4 examples cannot be put into the template") for note in made.notes)
    deaf = tiny_model(tmp_path / "deaf", "{{ raise_exception('never') }}")
    with pytest.raises(BadInput, match=r"no text for any of the 24 examples\. Row 1: .*never"):
        encode_dataset(folder, Data(held_out=0), deaf, seed=0)


def test_plain_text_is_trained_whole_and_ends(tiny: Path) -> None:
    encoder = Encoder(tiny, Data())
    whole = encoder.encode([Record(1, [], text="Once upon a time.")])[0]
    assert whole.text == "Once upon a time.<|im_end|>"
    assert whole.cut(1024).labels == whole.input_ids


def own(text: str, **values: object) -> Data:
    return Data.model_validate({"template": "custom", "custom_template": text, **values})


def test_a_template_with_placeholders(tiny: Path) -> None:
    data = own("{system}\nQ: {instruction}\nContext: {input}\nA: {output}\n--\n", system_prompt="Be brief.")
    encoder = Encoder(tiny, data)
    item = Record(1, record("Add.\n\n{output} 1 {x}", "{instruction}").messages, "Add.", "{output} 1 {x}")
    whole = encoder.encode([item])[0]
    assert whole.text == "Be brief.\nQ: Add.\nContext: {output} 1 {x}\nA: {instruction}\n--\n<|im_end|>"
    assert trained_text(encoder, whole.cut(1024).labels) == "{instruction}\n--\n<|im_end|>"
    system = [{"role": "system", "content": "Be long."}, *item.messages]
    assert encoder.encode([Record(1, system, "Add.")])[0].text.startswith("Be long.\nQ: Add.\nContext: \nA: ")
    prompt = "Be brief.\nQ: Hello?\nContext: \nA: "
    assert encoder.prompt_ids([{"role": "user", "content": "Hello?"}]) == encoder.tokenizer.encode(prompt).ids
    several = [*item.messages, *item.messages]
    with pytest.raises(BadInput, match=r"Row 3: .*several turns, and this template has room for one"):
        encoder.encode([Record(3, several)])


def test_an_end_marker_that_the_template_brings_is_not_doubled(tiny: Path) -> None:
    encoder = Encoder(
        tiny, own("<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n{output}<|im_end|>\n")
    )
    whole = encoder.encode([record("Hello?", "Hi.")])[0]
    assert whole == Encoder(tiny, Data()).encode([record("Hello?", "Hi.")])[0]


def test_an_input_without_a_place_follows_the_instruction(tiny: Path) -> None:
    item = Record(1, record("Add.\n\n1 2", "3").messages, "Add.", "1 2")
    assert Encoder(tiny, own("Q: {instruction} A: {output}")).encode([item])[0].text == "Q: Add.\n\n1 2 A: 3<|im_end|>"


def test_a_chat_template_of_ones_own(tmp_path: Path) -> None:
    bare = tiny_model(tmp_path / "bare", template=None)
    data = own(CHATML.replace("im_start", "im_end").replace("message['content']", "message['content'] | trim"))
    encoder = Encoder(bare, data)
    whole = encoder.encode([record(" Hello? ", " Hi. ")])[0]
    assert whole.text == "<|im_end|>user\nHello?<|im_end|>\n<|im_end|>assistant\nHi.<|im_end|>\n"
    assert trained_text(encoder, whole.cut(1024).labels) == "Hi.<|im_end|>"
    with pytest.raises(BadInput, match="The chat template of this recipe is broken"):
        Encoder(bare, own("{% if %}"))
    with pytest.raises(BadInput, match="Row 1: The chat template of this recipe cannot render"):
        Encoder(bare, own("{{ messages[0].nothing.more }}")).encode([record("a", "b")])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "template custom needs custom_template"),
        ("Q: {instruction}", r"must contain \{output\} exactly once, where the answer goes, not 0 times"),
        ("{output} {output}", "exactly once, where the answer goes, not 2 times"),
        ("{output} {input}", r"has \{input\} after \{output\}: the answer must come last"),
        ("{question} {output}", r"no value for \{question\}: it may contain \{instruction\}, \{input\}"),
    ],
)
def test_a_template_of_ones_own_is_checked_with_the_recipe(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        Recipe().with_values({"template": "custom", "custom_template": text})
    Recipe().with_values({"template": "chat", "custom_template": text})


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{% set x = messages.append(1) %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(tmp_path: Path, attack: str) -> None:
    folder = tiny_model(tmp_path / "evil", attack)
    with pytest.raises(BadInput):
        Encoder(folder, Data()).encode([record("a", "b")])
    with pytest.raises(BadInput):
        Encoder(folder, own(attack)).encode([record("a", "b")])


def test_a_tokenizer_is_read_once_until_its_file_changes(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "own")
    first = load_tokenizer(folder)
    assert load_tokenizer(folder) is first
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    told["added_tokens"].append({**told["added_tokens"][-1], "id": first.get_vocab_size(), "content": "<|new|>"})
    file.write_text(json.dumps(told))
    assert load_tokenizer(folder).token_to_id("<|new|>") == first.get_vocab_size()
