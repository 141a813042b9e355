"""Ours against the libraries people trust: the losses of a plain TRL script, the template of transformers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from studio.dataset.record import Record
from studio.dataset.tokens.encode import Encoder
from studio.engine.workers.harness import Worker
from studio.engine.workers.inputs import Inputs
from studio.recipe import Recipe
from studio.recipe.fields import Data
from studio.rundir import RunDir
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.data import datasets, examples
from studio.services.runs import runs
from tests.conftest import little_rows, write_jsonl
from tests.tiny import CHATML

pytestmark = pytest.mark.engine
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 10


def finished(studio: Studio, **values: object) -> str:
    """The id of a real run of the tiny model on the dataset `rows`, once it is completed."""
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
    return run.id


def ours(studio: Studio, **values: object) -> list[float]:
    """The journalled losses of a real run."""
    return [point["loss"] for point in runs.points(studio, finished(studio, **values)).metrics]


def peer(side: str, model: Path, rows: Path, *given: str, **env: str) -> dict[str, Any]:
    """What a peer's script measured."""
    script = str(BENCHMARKS / f"peer_{side}.py")
    command = [sys.executable, script, str(model), str(rows), *given, "--learning-rate", "1e-2"]
    env = os.environ | {"HF_HUB_OFFLINE": "1"} | env
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("dtype", "quantization", "bound"),
    [("float32", "none", 1e-5), ("bfloat16", "none", 1e-2), ("bfloat16", "nf4", 1e-2)],
)
def test_the_losses_are_those_of_a_plain_trl_script(
    ready: Studio, tiny: Path, tmp_path: Path, dtype: str, quantization: str, bound: float
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", little_rows(60))
    datasets.add(ready, path, name="rows")
    theirs = peer("trl", tiny, path, "--dtype", dtype, "--quantization", quantization, "--steps", str(STEPS))["losses"]
    mine = ours(ready, dtype=dtype, quantization=quantization)
    assert len(mine) == len(theirs) == STEPS
    assert theirs[-1] < theirs[0]
    assert mine == pytest.approx(theirs, rel=bound)


# What peer_unsloth.py asks of Unsloth, which runs on GPUs only, by PEFT.
UNSLOTH = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit):
        return AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype), AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(model, random_state, use_gradient_checkpointing, **lora):
        torch.manual_seed(random_state)
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
"""


def test_unsloth_s_script_trains_on_the_same_rows_in_the_same_order(tiny: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", little_rows(60))
    (tmp_path / "unsloth.py").write_text(UNSLOTH)
    given = ("--dtype", "float32", "--steps", str(STEPS))
    theirs, its = peer("trl", tiny, path, *given), peer("unsloth", tiny, path, *given, PYTHONPATH=str(tmp_path))
    assert its["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    assert its["tokens_per_s"] > 0 and its["first_step_s"] > 0


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


@pytest.mark.parametrize("engine", ["auto", "trl"])
@pytest.mark.parametrize("train_on", ["completions", "assistant", "everything"])
def test_what_is_shown_is_what_the_trainer_gets(
    ready: Studio, tiny: Path, tmp_path: Path, train_on: str, engine: str
) -> None:
    from studio.engine.inference import loading
    from studio.engine.workers import train

    talks = [
        {
            "messages": [
                {"role": role, "content": f"{role} {number}.{turn} {'é' * number}"}
                for turn in range(number % 3 + 1)
                for role in ("user", "assistant")
            ]
        }
        for number in range(9)
    ]
    dataset = datasets.add(ready, write_jsonl(tmp_path / "talks.jsonl", talks))
    values = {"model": "tiny", "dataset": "talks", "train_on": train_on, "max_length": 120, "held_out": 0,
              "dtype": "float32", "r": 4, "engine": engine}  # fmt: skip
    recipe = Recipe().with_values(values)
    inputs = Inputs(recipe, "tiny", tiny, "talks", Path(dataset.path))
    work = Mock(spec=Worker, run=RunDir(tmp_path))
    encoded = train.prepare_examples(work, inputs)
    trainer, _ = train.build_trainer(work, inputs, encoded, loading.pick_device())
    assert len(encoded.train) > 5 and encoded.truncated
    batch = trainer.data_collator(list(trainer.train_dataset))
    rows = {name: list(batch[name]) for name in ("input_ids", "labels")}
    if engine == "auto":  # one behind another
        lengths = [len(example.input_ids) for example in encoded.train]
        rows = {name: list(batch[name][0].split(lengths)) for name in rows}
    for index, example in enumerate(encoded.train):
        shown = examples.tokens_of(ready, dataset.id, example.row, "tiny", values)
        tokens = [token for token in shown.tokens if not token.cut]
        assert [token.id for token in tokens] == trainer.train_dataset[index]["input_ids"]
        labels = [token.id if token.trained else -100 for token in tokens]
        assert labels == trainer.train_dataset[index]["labels"]
        # Padded to the longest of the batch, and nothing of it trained. Nobody guesses the first token.
        padding = len(rows["labels"][index]) - len(labels)
        assert rows["labels"][index][1:].tolist() == labels[1:] + [-100] * padding
        assert rows["input_ids"][index][: len(labels)].tolist() == [token.id for token in tokens]


def test_an_adapter_carries_the_template_it_was_trained_with(ready: Studio, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    own = CHATML.replace("message['content']", "message['content'] | upper")
    datasets.add(ready, write_jsonl(tmp_path / "rows.jsonl", little_rows(20)), name="rows")
    run = finished(ready, template="custom", custom_template=own, max_steps=1)
    adapter = ready.settings.runs / run / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter, local_files_only=True)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Hi?"}], tokenize=False)
    assert said == "<|im_start|>user\nHI?<|im_end|>\n"
