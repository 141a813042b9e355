"""GGUF: what is converted is what was merged, llama.cpp reads it, and a file that loses too much is withheld.

The converter is fetched once into .cache (a few MB). What wants llama.cpp itself is skipped unless its tools are there:
STUDIO_GGUF_TOOLS=FOLDER, made by any export to GGUF.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.dataset.tokens.encode import Encoder
from studio.engine.artefacts import gguf as converting
from studio.engine.artefacts import merge
from studio.engine.artefacts.modelfile import modelfile
from studio.engine.workers import export as exporting
from studio.engine.workers import harness
from studio.errors import Unavailable
from studio.evaluation import parity
from studio.launch import gguf_tools
from studio.recipe.fields import Data
from studio.rundir import Exit, RunDir, read_json
from tests.artefacts import adapter_run, order, real_words
from tests.conftest import REPOSITORY
from tests.tiny import tiny_model

pytestmark = pytest.mark.engine

TOOLS = Path(os.environ.get("STUDIO_GGUF_TOOLS") or REPOSITORY / ".cache" / "gguf")
with_llama = pytest.mark.skipif(
    not gguf_tools.present(TOOLS, "llama"), reason="llama.cpp is not here: set STUDIO_GGUF_TOOLS to a folder with it"
)


def do(folder: RunDir) -> Exit:
    harness.serve("", exporting.export, [str(folder.path), "--nonce", "n"])
    end = Exit.read(folder)
    assert end is not None
    return end


@pytest.fixture(scope="module")
def converter() -> Path:
    try:
        return gguf_tools.make(TOOLS, "convert", "", lambda _: None)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, sample_model: Path) -> Path:
    return real_words(tmp_path_factory.mktemp("models") / "words", sample_model)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> RunDir:
    return adapter_run(tmp_path_factory.mktemp("runs") / "sums", model)


class Quiet:
    """As much of a worker as the converter wants."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(folder)

    def phase(self, _: str) -> None: ...

    def progressed_now(self) -> None: ...

    def leave_if_asked(self, _: str) -> None: ...


def test_what_is_converted_is_what_was_merged(converter: Path, run: RunDir, model: Path, tmp_path: Path) -> None:
    import torch
    from gguf import GGUFReader
    from safetensors.torch import load_file

    from studio.engine.artefacts.request import Order
    from studio.engine.inference import loading

    told = Order.read(order(tmp_path / "export", run, model, "gguf", tools=str(TOOLS)).path)
    merge.write_merged(told, loading.Device("cpu", "CPU"), tmp_path / "merged", lambda _: None)
    file = tmp_path / "plain.gguf"
    converting.convert(Quiet(tmp_path), converter, tmp_path / "merged", file)  # type: ignore[arg-type]
    reader = GGUFReader(file)
    fields = reader.fields
    assert fields["tokenizer.chat_template"].contents() == Encoder(model, Data()).chat_source
    tokenizer = Encoder(model, Data()).tokenizer
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens == [tokenizer.id_to_token(number) for number in range(len(tokens))]
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"} | {
        f"blk.{layer}.{ours}": f"model.layers.{layer}.{theirs}"
        for layer in range(2)
        for ours, theirs in {
            "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
        }.items()
    }  # fmt: skip  # queries and keys are put into another order for llama.cpp's rotary embedding
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    held = {tensor.name: np.asarray(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    for ours, theirs in names.items():
        wanted = merged[f"{theirs}.weight"].to(torch.float32).numpy()
        assert np.abs(held[f"{ours}.weight"].reshape(wanted.shape) - wanted).max() <= np.abs(wanted).max() * 2**-11, (
            ours
        )
    assert len(held) == len(names) + 4


def test_a_model_that_the_converter_does_not_know_is_a_sentence(converter: Path, tiny: Path, tmp_path: Path) -> None:
    from studio.errors import StudioError

    with pytest.raises(StudioError, match=r"cannot convert this model: .*Export a merged model"):
        converting.convert(Quiet(tmp_path), converter, tiny, tmp_path / "plain.gguf")  # type: ignore[arg-type]


@with_llama
@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q6_K"])
def test_a_gguf_is_read_by_llama_cpp_and_answers_alike(
    converter: Path, run: RunDir, model: Path, tmp_path: Path, quant: str
) -> None:
    made = order(tmp_path / "export", run, model, "gguf", quant=quant, tools=str(TOOLS))
    end = do(made)
    assert end.state == "completed", (end, made.log_tail())
    found = read_json(made.path / "parity.json") or {}
    assert found["passed"] and found["loader"] == "llama.cpp" and found["same_tokens"] == found["prompts"]
    names = {path.name for path in (made.path / "gguf").iterdir()}
    assert {f"sums-1-{quant}.gguf", "Modelfile", "README.md", "NOTICE", "MANIFEST.json"} <= names
    assert not (made.path / ".work").exists()


@with_llama
def test_a_gguf_that_loses_too_much_is_withheld(
    converter: Path, run: RunDir, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.BOUNDS, "Q4_K_M", parity.Bound(0.9999, 0.9999))
    made = order(tmp_path / "export", run, model, "gguf", quant="Q4_K_M", tools=str(TOOLS))
    end = do(made)
    assert end.state == "failed" and "Q4_K_M loses too much of this model: choose Q8_0 or F16" in end.message
    assert not (made.path / "gguf").exists() and not (made.path / ".work").exists()


@with_llama
def test_another_template_in_the_file_is_caught(
    converter: Path, run: RunDir, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = merge.write_merged

    def wrong(*given: Any) -> None:
        write(*given)
        path = given[2] / "chat_template.jinja"
        text = (path if path.exists() else model / "chat_template.jinja").read_text()
        path.write_text(text.replace("<|im_start|>assistant", "<|im_start|>helper"))

    monkeypatch.setattr(converting, "write_merged", wrong)
    made = order(tmp_path / "export", run, model, "gguf", tools=str(TOOLS))
    end = do(made)
    assert end.state == "failed" and "its chat template differs" in end.message


def test_tools_that_cannot_be_made_are_a_sentence_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_tools, "_INDEX", ("--index-url", "http://127.0.0.1:9/simple", "--retries", "0"))
    with pytest.raises(Unavailable, match=r"could not be installed: .*Exports as adapter or merged model do not need"):
        gguf_tools.make(tmp_path / "tools", "convert", "", lambda _: None)
    monkeypatch.setattr(gguf_tools.shutil, "which", lambda _: None)
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler"):
        gguf_tools.make(tmp_path / "tools", "llama", "", lambda _: None)
    assert [path.name for path in (tmp_path / "tools").iterdir() if path.is_dir()] == []


def test_a_tool_ends_with_its_asker(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(Enough):
        gguf_tools.run(command, tmp_path / "log", enough)


def test_the_modelfile_words_chats_as_the_model_does(sample_model: Path, tmp_path: Path) -> None:
    text = modelfile("x.gguf", Encoder(sample_model, Data()), "")
    assert text.startswith("# ollama create") and "FROM ./x.gguf\n" in text
    assert 'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n' in text
    assert "SYSTEM" in text and 'PARAMETER stop "<|im_end|>"' in text
    odd = tiny_model(tmp_path / "odd", "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}> ")
    text = modelfile("x.gguf", Encoder(odd, Data()), "Be brief.")
    assert "TEMPLATE" not in text and 'SYSTEM """Be brief."""' in text
    alpaca = modelfile("x.gguf", Encoder(sample_model, Data(template="alpaca")), "")
    assert "### Instruction:\n{{ .Prompt }}\n\n### Response:" in alpaca
