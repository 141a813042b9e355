"""Ours against the libraries people trust: the losses of a plain TRL script, the template of transformers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studio.dataset.encode import Encoder
from studio.dataset.formats import Record
from studio.recipe import Recipe
from studio.services import datasets, runs
from studio.services.states import FINAL
from studio.services.studio import Studio
from studio.themes import Data
from tests.conftest import little_rows, write_jsonl

pytestmark = pytest.mark.engine
PEER = Path(__file__).parents[2] / "benchmarks" / "peer_trl.py"
STEPS = 10


def ours(studio: Studio, **values: object) -> list[float]:
    """The journalled losses of a real run of the tiny model."""
    recipe = Recipe().with_values(
        {
            "model": "tiny", "dataset": "rows", "held_out": 0, "lora_dropout": 0, "lr_scheduler_type": "constant",
            "warmup_ratio": 0, "max_steps": STEPS, "learning_rate": 1e-2, **values,
        }
    )  # fmt: skip
    run = runs.start(studio, recipe)
    while (info := runs.get(studio, run.id)).state not in FINAL:
        time.sleep(0.2)
    assert info.state == "completed", info.message + runs.log_tail(studio, run.id)
    return [point["loss"] for point in runs.points(studio, run.id).metrics]


@pytest.mark.parametrize(
    ("dtype", "quantization", "bound"),
    [("float32", "none", 1e-5), ("bfloat16", "none", 1e-2), ("bfloat16", "nf4", 1e-2)],
)
def test_the_losses_are_those_of_a_plain_trl_script(
    ready: Studio, tiny: Path, tmp_path: Path, dtype: str, quantization: str, bound: float
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", little_rows(60))
    datasets.add(ready, path, name="rows")
    command = [sys.executable, str(PEER), str(tiny), str(path), "--dtype", dtype, "--quantization", quantization,
               "--steps", str(STEPS), "--learning-rate", "1e-2"]  # fmt: skip
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=env)
    theirs = json.loads(done.stdout.splitlines()[-1])["losses"]
    mine = ours(ready, dtype=dtype, quantization=quantization)
    assert len(mine) == len(theirs) == STEPS
    assert theirs[-1] < theirs[0]
    assert mine == pytest.approx(theirs, rel=bound)


def test_the_text_and_tokens_are_those_of_transformers(sample_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sample_model, local_files_only=True)
    encoder = Encoder(sample_model, Data())
    for row in [*little_rows(8), {"instruction": "Zähle: 1234  €  \n\n— 😀 <|im_end|> {{x}}", "output": "ok\n"}]:
        messages = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        whole = encoder.encode([Record(1, messages)])[0]
        assert whole.text == tokenizer.apply_chat_template(messages, tokenize=False)
        assert whole.input_ids == tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert encoder.prompt_ids(messages[:1]) == prompt
