"""The end is learned once: exactly one end marker is trained, whatever template and file bring."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from studio.dataset.record import Record
from studio.dataset.tokens.encode import Encoder, Whole
from studio.dataset.tokens.remarks import NOTHING, Remark
from studio.recipe.fields import Data
from tests.tiny import CHATML, tiny_model
from tests.unit.dataset.families import BAR, talk, trained

END = "<|im_end|>"
LINES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Llama 3's template, for a tokenizer that has no such tokens.
FOREIGN = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QUESTION = "{% for m in messages %}{{ m.content }}|{% endfor %}"


def encode(folder: Path, record: Record, **data: object) -> tuple[Encoder, Whole]:
    encoder = Encoder(folder, Data.model_validate(data))
    return encoder, encoder.encode([record])[0]


CHAT = [
    (CHATML, "Good.", "Good.<|im_end|>", NOTHING),
    (LINES, "Good.", "Good.<|im_end|>", Remark.END_ADDED),
    (LINES, "Good.<|im_end|>", "Good.<|im_end|>", NOTHING),
    (LINES, "Good.<|im_end|>\n", "Good.<|im_end|>", NOTHING),
    (FOREIGN, "Good.", "Good.<|eot_id|><|im_end|>", Remark.END_AS_TEXT),
]


@pytest.mark.parametrize(("template", "answer", "want", "remarks"), CHAT)
def test_a_chat_template_ends_the_answer_once(
    template: str, answer: str, want: str, remarks: Remark, tmp_path: Path
) -> None:
    encoder, whole = encode(tiny_model(tmp_path / "own", template), Record(1, talk("Hi?", answer)))
    assert (trained(encoder, whole), whole.remarks) == (want, remarks)
    assert want.count(END) == 1 and whole.input_ids.count(2) == whole.text.count(END)


def test_earlier_answers_end_as_the_template_ends_them(tmp_path: Path) -> None:
    messages = talk("Hi?", "Hello.", "Name?", "Ada.")
    encoder, whole = encode(tiny_model(tmp_path / "foreign", FOREIGN), Record(1, messages), train_on="assistant")
    assert trained(encoder, whole) == f"Hello.<|eot_id|>{BAR}Ada.<|eot_id|>{END}"
    encoder, whole = encode(tiny_model(tmp_path / "none", LINES), Record(1, messages), train_on="assistant")
    assert trained(encoder, whole) == f"Hello.{BAR}Ada.{END}"


@pytest.mark.parametrize("text", ["Once.", "Once.<|im_end|>", "Once.<|im_end|>\n"])
def test_plain_text_ends_once(tiny: Path, text: str) -> None:
    encoder, whole = encode(tiny, Record(1, [], text=text))
    assert trained(encoder, whole).count(END) == 1 and whole.input_ids.count(2) == 1


@pytest.mark.parametrize("answer", ["Good.", "Good.<|im_end|>", "Good.<|im_end|>\n"])
@pytest.mark.parametrize("own", ["", "Q: {instruction} A: {output}", "Q: {instruction} A: {output}<|im_end|>"])
def test_alpaca_and_plain_templates_end_once(tiny: Path, answer: str, own: str) -> None:
    shape = {"template": "custom", "custom_template": own} if own else {"template": "alpaca"}
    encoder, whole = encode(tiny, Record(1, talk("Hi?", answer), "Hi?"), **shape)
    assert trained(encoder, whole) == "Good.<|im_end|>"


def adding_bos(folder: Path) -> Path:
    """A tokenizer that adds its begin token to every text, as Llama's do."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save(str(path))
    return folder


@pytest.mark.parametrize("text", ["Once.", "<|im_start|>Once."])
def test_plain_text_begins_once(tmp_path: Path, text: str) -> None:
    _, whole = encode(adding_bos(tiny_model(tmp_path / "bos")), Record(1, [], text=text))
    assert whole.input_ids.count(1) == 1 and not whole.remarks & Remark.DOUBLE_BOS


def test_two_begin_tokens_of_a_template_are_said(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ bos_token }}" + QUESTION
    _, whole = encode(tiny_model(tmp_path / "two", template), Record(1, talk("Hi?", "Good.")))
    assert whole.remarks & Remark.DOUBLE_BOS
    _, whole = encode(
        adding_bos(tiny_model(tmp_path / "one", "{{ bos_token }}" + QUESTION)), Record(1, talk("Hi?", "b"))
    )
    assert not whole.remarks & Remark.DOUBLE_BOS


@pytest.mark.parametrize(("answer", "merged"), [("\n\nGood.", True), ("\nGood.", False), ("Good.", False)])
def test_leading_newlines_that_merge_with_the_prompt_are_said(tmp_path: Path, answer: str, merged: bool) -> None:
    folder = tiny_model(tmp_path / "merging", LINES.replace(": ", ":\n\n"))
    values = json.loads((folder / "tokenizer.json").read_text())
    size = len(values["model"]["vocab"])
    values["model"]["vocab"] |= {"ĊĊ": size, "ĊĊĊ": size + 1}
    values["model"]["merges"] = [["Ċ", "Ċ"], ["ĊĊ", "Ċ"]]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    _, whole = encode(folder, Record(1, talk("Hi?", answer)))
    assert bool(whole.remarks & Remark.MERGED_START) == merged
