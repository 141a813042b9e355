"""What the model sees: rendered, tokenised, masked, cut and split."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.dataset.encode import IGNORED, Encoder, encode_dataset, held_out_rows
from studio.dataset.formats import Record
from studio.dataset.template import alpaca_prompt
from studio.errors import BadInput
from studio.services import datasets
from studio.services.studio import Studio
from studio.themes import Data
from tests.tiny import tiny_model


def record(question: str, answer: str, row: int = 1) -> Record:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Record(row, messages, instruction=question)


def trained_text(encoder: Encoder, example_labels: list[int]) -> str:
    return encoder.tokenizer.decode([label for label in example_labels if label != IGNORED], skip_special_tokens=False)


def test_only_the_answer_and_its_end_are_trained(tiny: Path) -> None:
    encoder = Encoder(tiny, Data())
    whole = encoder.encode([record("Hello?", "Good day.")])[0]
    assert whole.text == "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nGood day.<|im_end|>\n"
    assert trained_text(encoder, whole.cut(1024).labels) == "Good day.<|im_end|>\n"


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


def test_the_question_at_chat_is_the_prompt_that_was_trained(tiny: Path) -> None:
    encoder = Encoder(tiny, Data(system_prompt="Be brief."))
    whole = encoder.encode([record("Hello?", "Hi.")])[0]
    assert encoder.prompt_ids([{"role": "user", "content": "Hello?"}]) == whole.input_ids[: whole.trained_from]
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


def test_a_split_is_the_same_each_time_and_keeps_equal_rows_together() -> None:
    records = [record(f"q{n % 40}", "a", row=n + 1) for n in range(80)]
    out = held_out_rows(records, 0.25, seed=3)
    assert out == held_out_rows(records, 0.25, seed=3) != held_out_rows(records, 0.25, seed=4)
    assert len(out) == 20
    content = {row: records[row - 1].instruction for row in out}
    inside = {item.instruction for item in records if item.row not in out}
    assert not set(content.values()) & inside


def test_a_template_that_refuses_names_the_row(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "strict", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadInput, match=r"Row 7: .*strict cannot render this example: roles must alternate"):
        Encoder(folder, Data()).encode([record("a", "b", row=7)])
    with pytest.raises(BadInput, match="has no chat template"):
        Encoder(tiny_model(tmp_path / "bare", template=None), Data())


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
