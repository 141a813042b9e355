"""Artefacts are proved against the model in the chat: sound ones pass, damaged ones are withheld with the reason."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from studio.engine.artefacts import merge
from studio.engine.workers import export as exporting
from studio.engine.workers import harness
from studio.rundir import Exit, RunDir, read_json, verify_folder
from tests.artefacts import adapter_run, order
from tests.tiny import CHATML

pytestmark = pytest.mark.engine


def do(folder: RunDir) -> Exit:
    harness.serve("", exporting.export, [str(folder.path), "--nonce", "n"])
    end = Exit.read(folder)
    assert end is not None
    return end


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> RunDir:
    return adapter_run(tmp_path_factory.mktemp("runs") / "sums", tiny)


def test_an_adapter_is_proved_and_its_card_tells_all(run: RunDir, tiny: Path, tmp_path: Path) -> None:
    made = order(tmp_path / "export", run, tiny, "adapter", evaluation=["Held-out examples: better."])
    end = do(made)
    assert end.state == "completed", end
    found = read_json(made.path / "parity.json") or {}
    assert found["passed"] and found["loader"] == "peft.AutoPeftModelForCausalLM"
    assert found["correlation"] > 0.99999 and found["agreement"] == 1 and found["alike"] == found["prompts"] == 4
    assert found["same_tokens"] == 4 and found["template"] == found["own_template"] != ""
    config = read_json(made.adapter / "adapter_config.json") or {}
    assert config["base_model_name_or_path"] == "me/tiny"
    card = (made.adapter / "README.md").read_text()
    for words in ("base_model: me/tiny", "## Loss", "| 12 | 0.2500 | 0.5000 |", "Held-out examples: better.",
                  "## Parity", "AutoPeftModel", "| r, lora_alpha", "sha256", "## Licence"):  # fmt: skip
        assert words in card, words
    assert (made.adapter / "loss.svg").read_text().startswith("<svg")
    with zipfile.ZipFile(made.path / "sums-1-adapter.zip") as packed:
        assert {
            "sums-1/adapter_model.safetensors",
            "sums-1/README.md",
            "sums-1/tokenizer.json",
            "sums-1/loss.svg",
        } <= set(packed.namelist())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_model_is_proved_in_its_type_and_in_small_files(
    run: RunDir, tiny: Path, tmp_path: Path, dtype: str
) -> None:
    made = order(tmp_path / "export", run, tiny, "merged", dtype=dtype, shard="40KB")
    end = do(made)
    assert end.state == "completed", end
    folder = made.path / "merged"
    assert verify_folder(folder) is None
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert (read_json(folder / "config.json") or {})["dtype"] == dtype
    assert (read_json(made.path / "parity.json") or {})["correlation"] > (0.99999 if dtype == "float32" else 0.98)
    assert dtype in (folder / "README.md").read_text()


def spoilt(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]) -> None:
    """Harm what the merge writes before anyone looks at it."""
    write = merge.write_merged

    def wrong(*given: Any) -> None:
        write(*given)
        harm(given[2])

    monkeypatch.setattr(exporting, "write_merged", wrong)


def zero_one_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"] * 0
    save_file(tensors, path, metadata={"format": "pt"})


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        CHATML.replace("<|im_start|>' + message['role']", "### ' + message['role']")
    )


def lost_template(folder: Path) -> None:
    # Words the question the same, so that only its text tells.
    (folder / "chat_template.jinja").write_text("{# mine #}" + CHATML)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (zero_one_tensor, "model.layers.1.mlp.down_proj.weight (by 100%)"),
        (other_template, "its chat template differs from the one used in training"),
        (lost_template, "Its chat template differs"),
    ],
)
def test_a_damaged_merge_is_withheld_with_the_reason(
    run: RunDir, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], words: str
) -> None:
    spoilt(monkeypatch, harm)
    made = order(tmp_path / "export", run, tiny, "merged")
    end = do(made)
    assert end.state == "failed" and "withheld" in end.message and words in end.message, end.message
    found = read_json(made.path / "parity.json") or {}
    assert not found["passed"] and words in found["reason"]
    assert [path.name for path in made.path.iterdir() if path.is_dir() and path.name != "control"] == []


def test_a_damaged_adapter_is_withheld(
    run: RunDir, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = exporting.set_base

    def wrong(folder: Path, base: str) -> None:
        copy(folder, base)
        path = folder / "adapter_model.safetensors"
        save_file({name: tensor * (0 if "layers.0" in name else 1) for name, tensor in load_file(path).items()}, path)

    monkeypatch.setattr(exporting, "set_base", wrong)
    made = order(tmp_path / "export", run, tiny, "adapter")
    end = do(made)
    assert end.state == "failed" and "layers.0" in end.message and "(by 100%)" in end.message
    assert list(made.path.glob("*.zip")) == [] and not made.adapter.exists()


def test_an_export_that_was_cancelled_or_killed_leaves_nothing_and_can_be_made_again(
    run: RunDir, tiny: Path, tmp_path: Path
) -> None:
    made = order(tmp_path / "export", run, tiny, "merged")
    made.ask("cancel")
    assert (do(made).state, json.loads(made.exit.read_text())["cause"]) == ("stopped", "cancelled")
    half = made.path / ".merged.1.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert do(made).state == "completed"
    assert not half.exists() and verify_folder(made.path / "merged") is None
